"""A plan under a sampler with few steps: what exactly the visited timesteps cost, and a routing within their budget."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import SchedulerMixin

from .costs import CostTable
from .expert_plan import ExpertPlan
from .file import PlanError
from .schedules import visited_timesteps

GRID = 1 << 16  # units that a budget is divided into by the search


@dataclass(frozen=True)
class StepCost:
    """One sampler and step count. ratio: active share over exactly the visited timesteps; macs: of all calls, batch 1;
    speedup: ideal, over the unpruned denoiser in `reference_calls` calls."""

    steps: int
    calls: int
    ratio: float
    macs: int
    reference_calls: int

    @property
    def speedup(self) -> float:
        return self.reference_calls / (self.calls * self.ratio)


def step_costs(
    plan: ExpertPlan,
    scheduler: SchedulerMixin,
    steps: Sequence[int] = (50, 25, 20, 15, 10),
    reference_steps: int = 50,
    costs: CostTable | None = None,
) -> list[StepCost]:
    """The true cost of each number of steps of `scheduler` under `plan`.

    costs: another cost table (resolution, convention, unit); None for the plan's MACs. Raises PlanError for a scheduler
    that does not count timesteps 0..T-1.
    """
    table, found = costs or plan.cost, []
    reference = len(visited_timesteps(scheduler, reference_steps))
    for number in steps:
        visited = visited_timesteps(scheduler, number)
        ratio = plan.macs_ratio(visited, table)
        found.append(StepCost(number, len(visited), ratio, round(ratio * table.whole * len(visited)), reference))
    return found


def rerouted(plan: ExpertPlan, timesteps: Sequence[int], ratio: float) -> torch.Tensor:
    """The routing [T] of `ExpertPlan.rerouted`.

    A knapsack with one choice a timestep: experts cost their share of the budget, in units of 1 / GRID rounded up (so
    that the result never exceeds it), and are `away` from a timestep by the distance to the nearest one of their own.
    """
    if not timesteps or not 0 < ratio <= 1:
        raise PlanError(f"timesteps: {len(timesteps)} at ratio {ratio}; allowed: at least one, at (0, 1]")
    if plan.macs_ratio(timesteps, plan.budget) <= ratio:
        return plan.routing
    whole = ratio * len(timesteps) * plan.budget.whole
    away, visits = distances(plan), Counter(timesteps)
    best = np.zeros(GRID + 1)  # least distance with at most so many units spent
    choices = []
    for t, count in visits.items():
        units = [int(np.ceil(GRID * count * cost / whole)) for cost in plan.expert_macs(plan.budget)]
        options = np.stack([shifted(best, unit) + count * away[t, expert] for expert, unit in enumerate(units)])
        choices.append((t, options.argmin(0), units))
        best = options.min(0)
    if np.isinf(best[GRID]):
        cheapest = min(plan.expert_macs(plan.budget)) / plan.budget.whole
        raise PlanError(f"ratio: {ratio} is out of reach at these timesteps; the cheapest expert runs {cheapest:.4f}")
    routing, left = plan.routing.clone(), GRID
    for t, chosen, units in reversed(choices):
        routing[t] = int(chosen[left])
        left -= units[routing[t]]
    return routing


def distances(plan: ExpertPlan) -> np.ndarray:
    """[T, N_e]: how far the nearest timestep of each expert lies; infinite for one that serves none."""
    routing, all_t = plan.routing.numpy(), np.arange(plan.num_train_timesteps)
    away = np.full((len(all_t), plan.num_experts), np.inf)
    for expert in np.unique(routing):
        own = all_t[routing == expert]
        after = np.searchsorted(own, all_t).clip(0, len(own) - 1)
        away[:, expert] = np.minimum(abs(all_t - own[after]), abs(all_t - own[(after - 1).clip(0)]))
    return away


def shifted(best: np.ndarray, units: int) -> np.ndarray:
    """`best` after `units` more were spent."""
    return np.concatenate([np.full(min(units, len(best)), np.inf), best[: max(0, len(best) - units)]])
