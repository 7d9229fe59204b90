"""apply_plan on a stock pipeline: the laws of skipping, alone, under mixed timesteps, and with bad plans."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_pipeline import (
    BACKBONE,
    LATENTS,
    LAYERS,
    PIPE,
    PLAN,
    TEXT,
    UNET,
    counted,
    denoise,
    masked_by_hooks,
    own_attributes,
    random_plan,
    sample,
)  # fmt: skip

from alter_lib import ExpertPlan, PlanError, apply_plan, remove_plan, save_pipeline
from alter_lib.inference.patching import patch_of


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    remove_plan(PIPE)


# laws


def test_all_ones_is_unpruned_bit_for_bit() -> None:
    before, images = denoise(500), sample()
    ones = torch.ones_like(PLAN.masks)
    apply_plan(PIPE, ExpertPlan.for_backbone(BACKBONE, ones, PLAN.routing))
    assert torch.equal(denoise(500), before) and torch.equal(sample(), images)


@given(st.integers(0, 2**31), st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_hard_skip_is_the_masked_forward(seed: int, t: int) -> None:
    plan = random_plan(seed)
    with masked_by_hooks(plan):
        expected = denoise(t)
    apply_plan(UNET, plan)
    assert torch.equal(denoise(t), expected)
    remove_plan(UNET)


def test_skipped_layers_are_not_called() -> None:
    apply_plan(PIPE, PLAN)
    for t in (0, 300, 999):
        with counted() as calls:
            denoise(t)
        assert {name for name, count in calls.items() if count == 1} == set(PLAN.active_layers(t))
        assert sum(calls.values()) == len(PLAN.active_layers(t))


def test_apply_and_remove_leave_no_trace() -> None:
    before, images, attributes, keys = denoise(300), sample(), own_attributes(), list(UNET.state_dict())
    apply_plan(PIPE, PLAN)
    assert not torch.equal(denoise(300), before)
    assert list(UNET.state_dict()) == keys
    apply_plan(PIPE, random_plan(1))  # replaces the first
    remove_plan(PIPE)
    remove_plan(PIPE)  # nothing left to take off
    assert own_attributes() == attributes and list(UNET.state_dict()) == keys
    assert torch.equal(denoise(300), before) and torch.equal(sample(), images)


def test_a_failing_call_leaves_the_next_one_whole() -> None:
    apply_plan(PIPE, PLAN)
    expected = denoise(300)
    with pytest.raises(RuntimeError):
        UNET(LATENTS, 300, encoder_hidden_states=TEXT[..., :3])
    assert torch.equal(denoise(300), expected)


# mixed timesteps in one batch


@given(st.integers(0, 2**31), st.lists(st.integers(0, 999), min_size=3, max_size=3))
@settings(max_examples=15, deadline=None)
def test_mixed_timesteps_are_sub_batches(seed: int, timesteps: list[int]) -> None:
    apply_plan(UNET, random_plan(seed))
    one_by_one = torch.cat([denoise(t)[i : i + 1] for i, t in enumerate(timesteps)])
    torch.testing.assert_close(denoise(torch.tensor(timesteps)), one_by_one, rtol=1e-4, atol=1e-5)


def test_sub_batches_call_each_layer_at_most_once() -> None:
    apply_plan(UNET, PLAN)
    timesteps = [10, 400, 999]
    with counted() as calls:
        denoise(torch.tensor(timesteps))
    wanted = set().union(*(PLAN.active_layers(t) for t in timesteps))
    assert {name for name, count in calls.items() if count == 1} == wanted and sum(calls.values()) == len(wanted)


# bad plans


@pytest.mark.parametrize("fault", ["backbone", "masks", "file"])
def test_a_plan_that_does_not_fit_changes_nothing(fault: str, tmp_path: Path) -> None:
    content = PLAN.to_dict()
    if fault == "backbone":
        content["backbone"]["architecture_hash"] = "f" * 64
    elif fault == "masks":
        content["experts"][0] = "1" * len(LAYERS)
    (tmp_path / "plan.json").write_text(json.dumps(content)[: -10 if fault == "file" else None])
    key = {"backbone": "backbone.architecture_hash", "masks": "achieved_ratio", "file": "plan.json"}[fault]
    attributes = own_attributes()
    with pytest.raises(PlanError, match=key) as error:
        apply_plan(PIPE, tmp_path)
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)
    assert own_attributes() == attributes
    apply_plan(PIPE, PLAN)
    with pytest.raises(PlanError):
        apply_plan(PIPE, tmp_path)
    assert patch_of(PIPE).plan == PLAN  # the one that was applied stays


def test_no_plan_beside_the_weights(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="plan: none given"):
        apply_plan(UNET)
    with pytest.raises(PlanError, match="plan: none given and none applied"):
        save_pipeline(PIPE, None, tmp_path / "alter")
    assert not (tmp_path / "alter").exists()
