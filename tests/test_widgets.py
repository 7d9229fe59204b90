"""The mask inspector and the live curves, without a browser (test_notebooks moves a slider in one)."""

import io
import time
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.display import Image
from PIL import Image as PillowImage

from alter_lib import widgets
from alter_lib.params import load_params
from alter_lib.plan import CostTable, ExpertPlan
from alter_lib.plots import png
from alter_lib.widgets import LiveCurves, MaskInspector

NAMES = [f"down_blocks.{i}.resnets.0" for i in range(17)] + [f"up_blocks.{i}.attentions.0" for i in range(17)]


def make_plan(num_experts: int = 10, timesteps: int = 1000) -> ExpertPlan:
    random = torch.Generator().manual_seed(0)
    masks = torch.rand(num_experts, len(NAMES), generator=random) < 0.6
    routing = torch.randint(num_experts, (timesteps,), generator=random)
    costs = CostTable(tuple(range(1, 35)), 300, "linear+conv", (8, 8))
    return ExpertPlan(masks, routing, NAMES, costs, "UNet2DConditionModel", "hash", 0.65)


PLAN = make_plan()


@pytest.fixture(scope="module")
def inspector() -> MaskInspector:
    return MaskInspector(PLAN)


def picture(inspector: MaskInspector) -> np.ndarray:
    return np.asarray(PillowImage.open(io.BytesIO(inspector.picture.value)))


@settings(max_examples=20)
@given(t=st.integers(0, 999))
def test_timestep_chooses_its_expert_and_lists_its_layers(inspector: MaskInspector, t: int) -> None:
    inspector.timestep.value = t
    assert inspector.expert.value == PLAN.expert(t)
    active, skipped = inspector.text.value.split("<br>")[1:]
    running = PLAN.active_layers(t)
    assert active == f"<b>{len(running)} active:</b> {', '.join(running)}"
    assert skipped == f"<b>{34 - len(running)} skipped:</b> {', '.join(n for n in NAMES if n not in running)}"
    assert f"{PLAN.macs_ratio([t]):.1%}" in inspector.text.value


def test_expert_can_be_looked_at_without_its_timestep(inspector: MaskInspector) -> None:
    inspector.timestep.value = 3
    other = (PLAN.expert(3) + 1) % PLAN.num_experts
    inspector.expert.value = other
    assert inspector.timestep.value == 3
    assert f"Timestep 3 is served by expert {PLAN.expert(3)}.</b> Shown: expert {other}," in inspector.text.value
    inspector.timestep.value = 4
    assert inspector.expert.value == PLAN.expert(4)


def test_only_the_cursor_moves(inspector: MaskInspector) -> None:
    inspector.timestep.value, inspector.expert.value = 100, 2
    first = picture(inspector)
    inspector.expert.value = 6
    moved = picture(inspector)
    rows = np.flatnonzero((first != moved).any((1, 2)))
    assert 0 < len(rows) < 0.4 * len(first)  # the frame went from one row of the mask picture to another
    inspector.expert.value = 2
    assert (picture(inspector) == first).all()  # nothing of the earlier positions is left


def test_a_move_takes_less_than_a_tenth_of_a_second(inspector: MaskInspector) -> None:
    seconds = []
    for t in range(0, 990, 66):
        began = time.thread_time()  # of this thread: a busy machine is no failure
        inspector.timestep.value = t
        seconds.append(time.thread_time() - began)
    assert median(seconds) < 0.1


def test_sliders_cover_the_plan_and_are_labelled(inspector: MaskInspector) -> None:
    for slider, name, last in ((inspector.timestep, "timestep", 999), (inspector.expert, "expert", 9)):
        assert (slider.min, slider.max, slider.step, slider.description) == (0, last, 1, name)
        assert slider.continuous_update  # arrow keys and dragging alike


def test_static_figure_has_the_cursor() -> None:
    inspector = MaskInspector(make_plan(3, 20))
    a, b = (png(inspector.figure(5, expert)) for expert in (0, 1))
    assert a != b
    assert png(inspector.figure(5)) == png(inspector.figure(5, inspector.plan.expert(5)))


def test_timesteps_of_the_pipelines_sampler_are_marked() -> None:
    class Pipeline:
        scheduler = DDIMScheduler()

    Pipeline.scheduler.set_timesteps(5)
    assert MaskInspector(PLAN, Pipeline()).visited == [800, 600, 400, 200, 0]


class Handle:
    """Stands for a notebook's output area: what was displayed in it, in order."""

    def __init__(self) -> None:
        self.shown: list[Image] = []

    def display(self, picture: Image, display_id: bool) -> "Handle":
        assert display_id
        self.update(picture)
        return self

    def update(self, picture: Image) -> None:
        self.shown.append(picture)


def row(step: int) -> dict:
    return {"step": step, "phase": "joint", "L_U": 1.0 / step, "ratio": 0.7, "sampled_ratio": 0.8}


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    handle = Handle()
    monkeypatch.setattr(widgets, "display", handle.display)
    return handle


def test_live_curves_paint_now_and_then_and_at_the_end(handle: Handle, tmp_path: Path) -> None:
    params = load_params("params/smoke.yaml", {"run.out": str(tmp_path)})
    curves = LiveCurves(params, seconds=3600)
    for step in range(1, 12):
        curves(None, row(step))
    assert handle.shown == []
    curves(None, row(12))
    assert len(handle.shown) == 1 and handle.shown[0].data.startswith(b"\x89PNG")
    eager = LiveCurves(params, seconds=0)
    eager(None, row(1))
    assert len(handle.shown) == 2
    eager(None, row(2))  # right after a picture: painting may take a twentieth of the time only
    assert len(handle.shown) == 2


def test_live_curves_go_on_after_an_interruption(handle: Handle, tmp_path: Path) -> None:
    params = load_params("params/smoke.yaml", {"run.out": str(tmp_path)})
    params.run_folder.mkdir(parents=True)
    (params.run_folder / "history.csv").write_text(
        "step,phase,L_U,ratio\n1,joint,1,0.9\n2,joint,1,0.9\n3,joint,1,0.9\n"
    )
    curves = LiveCurves(params)
    curves(None, row(2))  # the checkpoint was at step 1: steps 2 and 3 are made again
    assert [each["step"] for each in curves.rows] == [1, 2]
