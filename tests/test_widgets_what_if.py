"""The inspector's What if: edits of a plan, by its panel and by a press on the drawing, counted, undone and saved."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from widget_plans import NAMES, PLAN, SMALL

from alter_lib.plan import ExpertPlan
from alter_lib.widgets import MaskInspector, edits, words


@pytest.fixture
def inspector(tmp_path: Path) -> MaskInspector:
    inspector = MaskInspector(PLAN, save_as=tmp_path / "edited.json")
    inspector.edit.value = True
    return inspector


def test_a_toggle_changes_one_entry_and_the_ratio_at_once(inspector: MaskInspector) -> None:
    inspector.timestep.value = 7
    expert, toggle = PLAN.expert(7), inspector.what_if.layers[33]
    toggle.value = not toggle.value
    changed = inspector.plan.masks != PLAN.masks
    assert changed.nonzero().tolist() == [[expert, 33]]
    assert f"{inspector.plan.achieved_ratio:.2%} of the MACs over all timesteps" in inspector.what_if.said.value
    assert inspector.view.picture.value.count(" changed") == 1
    assert toggle.icon == ("check" if toggle.value else "times")
    toggle.value = not toggle.value
    assert inspector.plan == PLAN and "0 changes" in inspector.what_if.said.value


def test_looking_at_experts_edits_nothing(inspector: MaskInspector) -> None:
    for expert in range(10):
        inspector.expert.value = expert
    assert inspector.plan is PLAN


def test_the_panel_shows_the_expert_of_now_when_it_opens() -> None:
    inspector = MaskInspector(PLAN)
    inspector.timestep.value = 500
    inspector.edit.value = True
    expert = PLAN.expert(500)
    assert [toggle.value for toggle in inspector.what_if.layers] == PLAN.masks[expert].tolist()
    assert f"expert {expert} ran other layers" in inspector.what_if.heading.value


def test_reroute_and_undo(inspector: MaskInspector) -> None:
    what_if = inspector.what_if
    what_if.interval.value, what_if.target.value = (100, 199), 4
    what_if.reroute.click()
    assert set(inspector.plan.routing[100:200].tolist()) == {4}
    assert (inspector.plan.routing[:100] == PLAN.routing[:100]).all()
    assert inspector.sampler.text.value == words.calls(inspector.plan, inspector.sampler.visited)
    inspector.timestep.value = 150
    assert inspector.expert.value == 4
    what_if.reset.click()
    assert inspector.plan == PLAN and inspector.expert.value == PLAN.expert(150)


def test_an_edited_plan_is_saved_with_what_was_changed_and_loads(inspector: MaskInspector) -> None:
    toggle = inspector.what_if.layers[0]
    toggle.value = not toggle.value
    inspector.what_if.save.click()
    loaded = ExpertPlan.load(inspector.what_if.path.value)
    assert (loaded.masks == inspector.plan.masks).all()
    word = "runs" if toggle.value else "skips"
    assert loaded.provenance[edits.EDITED] == [f"expert {PLAN.expert(0)} {word} {NAMES[0]}"]
    inspector.what_if.save.click()  # again: what was saved here may be replaced
    assert "Saved: " in inspector.what_if.said.value


def test_a_learned_plan_is_not_overwritten_and_a_bad_path_is_one_line(inspector: MaskInspector, tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.json")
    before = (tmp_path / "plan.json").read_bytes()
    for path, reason in ((tmp_path, "was not edited here"), (tmp_path / "plan.json" / "x", "cannot be written")):
        inspector.what_if.path.value = str(path)
        inspector.what_if.save.click()
        assert reason in inspector.what_if.said.value and "Not saved" in inspector.what_if.said.value
    assert (tmp_path / "plan.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@settings(max_examples=30)
@given(data=st.data())
def test_differences_say_what_the_edits_were(data: st.DataObject) -> None:
    first, last = sorted(data.draw(st.tuples(st.integers(0, 999), st.integers(0, 999))))
    expert, layer = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 33))
    edited = edits.rerouted(edits.toggled(PLAN, expert, layer), first, last, expert)
    lines = edits.differences(PLAN, edited)
    moved = [tuple(map(int, re.findall(r"\d+", line))) for line in lines if line.startswith("timesteps")]
    assert lines[0].startswith(f"expert {expert} ") and lines[0].endswith(NAMES[layer])
    assert sum(last - first + 1 for first, last, _ in moved) == int((PLAN.routing != edited.routing).sum())
    assert edits.differences(PLAN, PLAN) == []


def press(inspector: MaskInspector, expert: int, layer: int) -> None:
    """What drawing.js sends at a click on a cell, and at Enter or Space on it."""
    inspector.view.picture._handle_custom_msg({"expert": expert, "layer": layer}, [])


def test_a_pressed_cell_chooses_its_expert_and_edits_nothing_while_what_if_is_closed() -> None:
    inspector = MaskInspector(PLAN)
    other = (PLAN.expert(0) + 1) % PLAN.num_experts
    press(inspector, other, 20)
    assert inspector.expert.value == other and f"Shown: expert {other}," in inspector.view.text.value
    assert inspector.plan is PLAN and inspector.timestep.value == 0


def test_a_pressed_cell_is_toggled_in_what_if_and_its_expert_stays(inspector: MaskInspector) -> None:
    other = (PLAN.expert(0) + 1) % PLAN.num_experts
    press(inspector, other, 20)
    assert (inspector.plan.masks != PLAN.masks).nonzero().tolist() == [[other, 20]]
    assert inspector.expert.value == other and inspector.view.picture.value.count(" changed") == 1
    assert words.layer_text(PLAN, 20) in inspector.what_if.said.value
    press(inspector, other, 20)
    assert inspector.plan == PLAN


def test_a_layer_whose_weights_are_gone_stays_off() -> None:
    plan = replace(SMALL, masks=SMALL.masks & torch.tensor([True, True, False]), dropped_layers=(SMALL.layer_names[2],))
    inspector = MaskInspector(plan)
    inspector.edit.value = True
    press(inspector, 0, 2)
    assert inspector.plan is plan
