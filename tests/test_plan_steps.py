"""Steps and budgets: the true cost of exactly the visited timesteps, and a routing that keeps within a budget."""

from itertools import product

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler, UniPCMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import small_plan

from alter_lib import ExpertPlan, PlanError
from alter_lib.plan.costs import CostTable
from alter_lib.plan.steps import distances, step_costs

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PNDM = PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)


def half_and_half() -> ExpertPlan:
    """t < 500: 60 of 100; t >= 500: all 100."""
    return small_plan(["0", "1"], [0] * 500 + [1] * 500, [40], fixed=60)


def test_pndm_by_hand() -> None:
    """PNDM visits 751, 501, 501, 251, 1 in 4 steps and makes 51 calls in 50: the ideal is of calls, not of steps."""
    (found,) = step_costs(half_and_half(), PNDM, steps=[4])
    assert (found.steps, found.calls, found.reference_calls) == (4, 5, 51)
    assert found.ratio == pytest.approx((3 * 1.0 + 2 * 0.6) / 5)
    assert found.macs == 3 * 100 + 2 * 60
    assert found.speedup == pytest.approx(51 / 4.2)


def test_the_papers_limit_of_twenty_pndm_steps() -> None:
    """51 / (21 x 0.65) = 3.74: what 3.64x of Table 2 is measured against."""
    plan = small_plan(["0"], [0] * 1000, [35], fixed=65)
    (found,) = step_costs(plan, PNDM, steps=[20])
    assert found.calls == 21 and found.speedup == pytest.approx(3.736, abs=1e-3)


@pytest.mark.parametrize("scheduler", [DPMSolverMultistepScheduler(**BETAS), UniPCMultistepScheduler(**BETAS)])
def test_few_step_samplers_make_one_call_a_step(scheduler: object) -> None:
    found = step_costs(half_and_half(), scheduler)
    assert [(each.steps, each.calls) for each in found] == [(n, n) for n in (50, 25, 20, 15, 10)]
    assert all(0.6 < each.ratio < 1 and each.reference_calls == 50 for each in found)


def test_another_table_is_another_ratio() -> None:
    table = CostTable((90,), 10, "linear+conv", (16, 16))
    (found,) = step_costs(half_and_half(), DDIMScheduler(**BETAS), steps=[2], costs=table)  # t = 500 and 0
    assert found.ratio == pytest.approx((100 + 10) / 200) and found.macs == 110


def test_distances_by_hand() -> None:
    plan = small_plan(["1", "1", "1"], [0, 0, 1, 1, 0], [1], fixed=1)
    assert distances(plan)[:, :2].tolist() == [[0, 2], [0, 1], [1, 0], [1, 0], [0, 1]]
    assert distances(plan)[:, 2].tolist() == [float("inf")] * 5  # serves no timestep: never chosen


@given(st.integers(0, 2**31), st.floats(0.35, 0.95))
@settings(max_examples=60, deadline=None)
def test_rerouting_against_all_routings(seed: int, ratio: float) -> None:
    """Within the budget, and no routing within it stays nearer (up to the grid of the search)."""
    random = torch.Generator().manual_seed(seed)
    masks = ["".join(map(str, (torch.rand(4, generator=random) < 0.6).int().tolist())) for _ in range(3)]
    routing = torch.randint(3, (12,), generator=random).tolist()
    plan = small_plan(masks, routing, [10, 20, 30, 40], fixed=30)
    timesteps = torch.randint(12, (4,), generator=random).tolist()
    visits, away, cost = sorted(set(timesteps)), distances(plan), plan.expert_macs()
    budget = ratio * len(timesteps) * plan.cost.whole

    def far(choice: dict[int, int]) -> float:
        return sum(away[t, choice[t]] for t in timesteps)

    choices = [dict(zip(visits, each, strict=True)) for each in product(sorted(set(routing)), repeat=len(visits))]
    within = [each for each in choices if sum(cost[each[t]] for t in timesteps) <= budget]
    clearly = [each for each in within if sum(cost[each[t]] for t in timesteps) <= budget * (1 - 1e-3)]
    if not within:
        with pytest.raises(PlanError, match="is out of reach"):
            plan.rerouted(timesteps, ratio)
    elif clearly:
        found = plan.rerouted(timesteps, ratio)
        assert found.macs_ratio(timesteps) <= ratio + 1e-12
        assert torch.equal(found.masks, plan.masks)
        others = [t for t in range(12) if t not in timesteps]
        assert found.routing[others].tolist() == plan.routing[others].tolist()
        moved = far(dict(zip(visits, found.routing[visits].tolist(), strict=True)))
        assert moved <= min(map(far, clearly)) + 1e-9


def test_a_plan_within_its_budget_keeps_its_routing_and_bad_budgets_are_refused() -> None:
    plan = half_and_half()
    assert plan.rerouted([1, 2], 0.6) == plan
    assert plan.rerouted([499, 500], 0.6).routing[500] == 0
    for timesteps, ratio in (([], 0.5), ([1], 0.0), ([1], 1.5)):
        with pytest.raises(PlanError, match="allowed: at least one"):
            plan.rerouted(timesteps, ratio)
    with pytest.raises(PlanError, match="0.5 is out of reach .* the cheapest expert runs 0.6"):
        plan.rerouted([1], 0.5)
