"""doctor tells an active plan from a lost one, counts what the sampler really runs, and measures against the ideal."""

from collections.abc import Iterator

import pytest
import torch
from diffusers import EDMEulerScheduler, EulerDiscreteScheduler
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import ExpertPlan, PlanError, apply_plan, doctor, remove_plan
from alter_lib.backbones import wrap
from alter_lib.inference.patching import patch_of
from alter_lib.plan import CostTable
from alter_lib.plan.schedules import visited_timesteps

BACKBONE = wrap(tiny_pipeline())
PIPE, UNET = BACKBONE.pipeline, BACKBONE.denoiser
STOCK_SCHEDULER = PIPE.scheduler
N_L = len(BACKBONE.layers)


def two_experts(keep: float = 0.5) -> ExpertPlan:
    """Expert 1 runs everything at t >= 500, expert 0 a share `keep` of the layers below."""
    masks = torch.ones(2, N_L, dtype=torch.bool)
    masks[0, int(keep * N_L) :] = False
    return ExpertPlan.for_backbone(BACKBONE, masks, (torch.arange(1000) >= 500).long())


PLAN = two_experts()


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    remove_plan(PIPE)
    PIPE.scheduler = STOCK_SCHEDULER


def test_no_plan_and_removed_plan() -> None:
    assert not doctor(PIPE).active
    assert "NOT ACTIVE, the pipeline runs unpruned: no plan is applied" in str(doctor(PIPE))
    apply_plan(PIPE, PLAN)
    assert doctor(PIPE, measure=False).active
    remove_plan(PIPE)
    assert not doctor(PIPE).active


def test_a_lost_patch_is_noticed() -> None:
    apply_plan(PIPE, PLAN)
    forward = UNET.forward
    UNET.forward = lambda *arguments, **keywords: forward.original(*arguments, **keywords)
    assert doctor(PIPE, measure=False).fault == "1 modules had their forward replaced after apply_plan"
    del UNET.forward


def test_a_layer_that_runs_against_the_plan_is_named() -> None:
    apply_plan(PIPE, PLAN)
    layer = [layer for layer in BACKBONE.layers if layer.kind == "resnet"][-1]  # expert 0 skips it

    def run_it_all_the_same(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        module.forward.original(*inputs)

    hook = layer.module.register_forward_hook(run_it_all_the_same)
    found = doctor(PIPE, steps=2, repeats=1)
    hook.remove()
    assert not found.active and found.fault == f"layers that do not follow the plan: {layer.name}"
    assert doctor(PIPE, steps=2, repeats=1).active


def test_ratio_at_the_sampler_and_its_steps() -> None:
    apply_plan(PIPE, PLAN)
    found = doctor(PIPE, steps=4, measure=False)
    visited = [751, 501, 501, 251, 1]  # by hand: PNDM, steps_offset 1; expert 1 serves three of five calls
    share = PLAN.expert_macs()[0] / BACKBONE.total_macs
    assert found.calls == 5 and found.experts == (0, 1)
    assert found.ratio == pytest.approx((3 + 2 * share) / 5) == PLAN.macs_ratio(visited)
    assert found.plan_ratio == pytest.approx((1 + share) / 2)
    assert found.ideal_speedup == pytest.approx(1 / found.ratio)
    PIPE.scheduler = EulerDiscreteScheduler.from_config(STOCK_SCHEDULER.config)
    other = doctor(PIPE, steps=5, measure=False)
    assert other.calls == 5 and other.ratio == PLAN.macs_ratio(visited_timesteps(PIPE.scheduler, 5))
    PIPE.scheduler = EDMEulerScheduler()
    with pytest.raises(PlanError, match="EDMEulerScheduler"):
        doctor(PIPE, measure=False)


def test_steps_are_those_of_the_latest_run() -> None:
    apply_plan(PIPE, PLAN)
    assert "nothing yet" in str(doctor(PIPE, measure=False))
    PIPE("ghost", num_inference_steps=3, output_type="latent")
    found = doctor(PIPE, measure=False)
    assert found.steps == 3 and found.calls == 4
    assert set(found.skipped) == set(PLAN.layer_names) - set(PLAN.active_layers(1))  # the last call was at t = 1


def test_mixed_timesteps_skip_what_no_sample_runs() -> None:
    apply_plan(PIPE, PLAN)
    UNET(torch.zeros(2, 4, 8, 8), torch.tensor([1, 999]), encoder_hidden_states=torch.zeros(2, 16, 16))
    assert doctor(PIPE, measure=False).skipped == ()


def test_another_resolution_has_another_ratio() -> None:
    apply_plan(PIPE, PLAN)
    found = doctor(PIPE, steps=4, resolution=(16, 24), measure=False)
    costs = CostTable.of(wrap(PIPE, resolution=(16, 24)))
    assert found.resolution == (16, 24)
    assert found.ratio == PLAN.macs_ratio([751, 501, 501, 251, 1], costs) != doctor(PIPE, steps=4, measure=False).ratio
    assert "(16 x 24 latents, linear+conv+attention)" in str(found)


def test_measured_speed() -> None:
    """A plan that keeps nothing must be faster; the state of the pipeline is not disturbed by the measurement."""
    nothing = torch.zeros(1, N_L, dtype=torch.bool)
    apply_plan(PIPE, ExpertPlan.for_backbone(BACKBONE, nothing, torch.zeros(1000, dtype=torch.int64)))
    PIPE("ghost", num_inference_steps=2, output_type="latent")
    before = patch_of(PIPE).last_sets
    found = doctor(PIPE, batch_size=2, repeats=3)
    assert patch_of(PIPE).last_sets is before and len(found.skipped) == N_L
    assert found.measured_speedup == pytest.approx(found.unpruned_seconds / found.pruned_seconds)
    assert found.measured_speedup > 1.5
    assert f"measured speedup: {found.measured_speedup:.2f}x" in str(found) and "batch 2, cpu" in str(found)
