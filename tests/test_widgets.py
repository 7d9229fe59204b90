"""Logic of the widgets, without a kernel or a browser (test_pages opens them in JupyterLab)."""

import re
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

import pytest
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from widget_plans import NAMES, PLAN, SMALL, make_plan

from alter_lib.params import Sampling
from alter_lib.plan import ExpertPlan
from alter_lib.plan.file import PlanError
from alter_lib.widgets import MaskInspector, PlanComparison, edits, html, words


@pytest.fixture
def inspector(tmp_path: Path) -> MaskInspector:
    inspector = MaskInspector(PLAN, save_as=tmp_path / "edited.json")
    inspector.edit.value = True
    return inspector


# --- drawing and words --------------------------------------------------------------------------------------------


def svgs(markup: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", markup)]


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_bars_are_filled_where_the_layer_runs_and_name_it(seed: int) -> None:
    plan = make_plan(3, 10, seed)
    for expert, mask in enumerate(plan.masks.tolist()):
        (svg,) = svgs(html.mask_row(plan, expert))
        assert [bar.find("rect[2]").get("class") == "on" for bar in svg] == mask
        assert [bar.find("title").text.split(":")[0] for bar in svg] == NAMES
        heights = [float(bar.find("rect[2]").get("height")) for bar in svg]
        assert all(a <= b for a, b in pairwise(heights))  # MACs 1, 2, ..., 34


def test_a_layer_is_named_with_macs_and_share_by_hand() -> None:
    assert words.layer_text(SMALL, 1) == "mid_block.attentions.0: 20 MACs, 20.0% of the network"
    assert [words.amount(macs) for macs in (0, 999, 1000, 1_234_500, 2e9, 3.2e12)] == [
        "0 MACs", "999 MACs", "1 kMACs", "1.234 MMACs", "2 GMACs", "3.2 TMACs"
    ]  # fmt: skip


def test_routing_row_covers_the_timesteps_of_its_expert_by_hand() -> None:
    paths = [svgs(html.routing_row(SMALL, expert))[0].find("path").get("d") for expert in (0, 1)]
    assert paths == ["M0 5h2v11h-2zM3 5h1v11h-1z", "M2 5h1v11h-1z"]


def test_curve_and_mean_by_hand() -> None:
    (svg,) = svgs(html.macs_curve(SMALL, visited=[3, 1]))  # expert 0 runs 80 of 100 MACs, expert 1 70
    mean, line, *ticks = [path.get("d") for path in svg]
    assert (mean, line) == ("M0 22.5H4", "M0 20V20H2V30H3V20H4")  # y counts down from 100 %
    assert ticks == ["M1.5 100V91", "M3.5 100V91"]


def test_head_names_stages_blocks_and_kinds_once() -> None:
    texts = re.findall(r'class="at"[^>]*>([^<]*)<', html.head(SMALL))
    assert texts == ["down", "mid", "up", "0", "", "1", "R", "T", "R"]


def test_pointer_stands_at_its_timestep_and_row() -> None:
    style = html.pointer("scope", SMALL, 2, 1)
    assert ".scope .cursor { left: 62.500%; }" in style and ".scope .alter-plan .expert-1 " in style
    assert len(style) < 500  # what a move of the slider sends, beside the words


def test_hostile_names_are_escaped() -> None:
    names = ('a.resnets."><script>', "b", "c")
    plan = ExpertPlan(SMALL.masks, SMALL.routing, names, SMALL.cost, "UNet2DConditionModel", "hash")
    for text in (html.drawing(plan), words.description(plan, 0, 0)):
        assert "<script>" not in text


# --- the inspector --------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(t=st.integers(0, 999))
def test_timestep_chooses_its_expert_and_lists_its_layers(t: int) -> None:
    inspector = SHARED
    inspector.edit.value, inspector.timestep.value = True, t
    expert, running = PLAN.expert(t), PLAN.active_layers(t)
    assert inspector.expert.value == expert
    text = inspector.view.text.value
    assert f"Timestep {t} is served by expert {expert}" in text and f"{PLAN.macs_ratio([t]):.1%}" in text
    active, skipped = text.removesuffix("</div>").split("<br>")[1:]
    assert re.findall(r"([\w.]+) \(", active) == list(running) and f"{len(running)} active" in active
    assert re.findall(r"([\w.]+) \(", skipped) == [name for name in NAMES if name not in running]
    assert [toggle.value for toggle in inspector.what_if.layers] == PLAN.masks[expert].tolist()


SHARED = MaskInspector(PLAN)


def test_expert_can_be_looked_at_without_its_timestep(inspector: MaskInspector) -> None:
    inspector.timestep.value = 3
    other = (PLAN.expert(3) + 1) % PLAN.num_experts
    inspector.expert.value = other
    assert inspector.timestep.value == 3 and f"Shown: expert {other}," in inspector.view.text.value
    assert f".expert-{other} " in inspector.view.pointer.value
    inspector.timestep.value = 4
    assert inspector.expert.value == PLAN.expert(4)


def test_a_move_sends_little_and_takes_less_than_a_tenth_of_a_second(inspector: MaskInspector) -> None:
    drawing, seconds = inspector.view.picture.value, []
    for t in range(0, 990, 66):
        began = time.thread_time()  # of this thread: a busy machine is no failure
        inspector.timestep.value = t
        seconds.append(time.thread_time() - began)
    assert median(seconds) < 0.1 and inspector.view.picture.value is drawing
    assert len(inspector.view.pointer.value) + len(inspector.view.text.value) < 5000


def test_sliders_cover_the_plan_and_are_labelled(inspector: MaskInspector) -> None:
    for slider, name, last in ((inspector.timestep, "timestep", 999), (inspector.expert, "expert", 9)):
        assert (slider.min, slider.max, slider.step, slider.description) == (0, last, 1, name)
        assert slider.continuous_update  # arrow keys and dragging alike
    assert (inspector.play.min, inspector.play.max) == (0, 999)


def test_two_inspectors_on_a_page_do_not_share_a_cursor(inspector: MaskInspector) -> None:
    assert MaskInspector(PLAN).view.scope != inspector.view.scope


def test_display_holds_a_static_picture_beside_the_widget(inspector: MaskInspector) -> None:
    bundle = inspector._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["image/png"].startswith("iVBORw0KGgo")  # base64 of the PNG signature


# --- samplers -------------------------------------------------------------------------------------------------------


def test_calls_and_macs_of_a_sampler_by_hand() -> None:
    text = words.calls(SMALL, [3, 2, 0])
    assert "3 calls visit experts 0, 1: 230 MACs of 300 MACs = 76.67%" in text
    assert re.findall(r">(\d)</span>", text) == ["0", "1", "0"]
    assert "1 calls visit expert 1:" in words.calls(SMALL, [2])


def test_pipelines_own_scheduler_comes_first_with_its_settings() -> None:
    class Pipeline:
        scheduler = DDIMScheduler(steps_offset=1)

    panel = MaskInspector(PLAN, Pipeline(), Sampling(steps=5)).sampler
    assert panel.scheduler.value == "DDIMScheduler" and panel.visited == [801, 601, 401, 201, 1]
    panel.steps.value = 2
    assert panel.visited == [501, 1]
    assert (panel.sampling.scheduler, panel.sampling.steps) == ("DDIMScheduler", 2)


def test_stable_diffusions_pndm_calls_once_more_than_its_steps(inspector: MaskInspector) -> None:
    inspector.sampler.scheduler.value = "PNDMScheduler"
    assert len(inspector.sampler.visited) == 21
    assert inspector.view.picture.value.count('class="visit"') == len(set(inspector.sampler.visited))


# --- two plans ------------------------------------------------------------------------------------------------------


def test_comparison_names_the_layers_of_one_alone() -> None:
    other = edits.toggled(edits.toggled(SMALL, 0, 1), 0, 2)  # expert 0: layers 0 and 1 in place of 0 and 2
    comparison = PlanComparison({"a": SMALL, "<b>": other})
    assert "a: expert 0, 80.0% of the MACs; &lt;b&gt;: expert 0, 70.0% of the MACs" in comparison.text.value
    assert "1 in a alone:</b> up_blocks.1.resnets.0" in comparison.text.value
    assert "1 in &lt;b&gt; alone:</b> mid_block.attentions.0" in comparison.text.value
    comparison.timestep.value = 2
    assert comparison.text.value.count("alone:</b> none") == 2
    assert all(".expert-1 " in view.pointer.value for view in comparison.views.values())


def test_plans_of_different_backbones_are_refused() -> None:
    with pytest.raises(PlanError, match="a and b: different layers"):
        PlanComparison({"a": SMALL, "b": PLAN})
