"""Greedy plans: layers leave one by one, each time the one whose loss costs least beside all that have left before it.

Training-free, where `baselines.skipping_errors` skips each layer alone and ranks once. `allocated` moreover lets
intervals of timesteps share one budget, so that MACs go to the timesteps that need them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch.nn.functional import pad
from tqdm.auto import tqdm

from . import skipping
from .backbones import Backbone
from .data.latents import Batch
from .hypernetwork import equal_intervals
from .losses import interval_means, sample_errors
from .plan import CostTable, ExpertPlan
from .plan.costs import Denominator
from .training.objective import Noised, Objective


@dataclass(frozen=True)
class SkippingError:
    """Mean squared change of the teacher's prediction where layers are skipped, by interval of timesteps.

    intervals: routing [T] to num_intervals.
    """

    objective: Objective
    modules: list[torch.nn.Module]
    intervals: torch.Tensor
    num_intervals: int
    samples: list[tuple[Noised, torch.Tensor]]  # and the unpruned prediction

    @classmethod
    @torch.no_grad()
    def on(cls, backbone: Backbone, objective: Objective, batches: Iterable[Batch], num_intervals: int) -> Self:
        modules = [objective.teacher.get_submodule(layer.name) for layer in backbone.layers]
        noised = [objective.noise(batch) for batch in batches]
        samples = [(each, objective.run(objective.teacher, each)[0]) for each in noised]
        intervals = equal_intervals(backbone.num_train_timesteps, num_intervals)
        return cls(objective, modules, intervals, num_intervals, samples)

    @torch.no_grad()
    def __call__(self, masks: torch.Tensor) -> torch.Tensor:
        """[N_i] under masks [N_i, N_L] bool."""
        errors, interval = [], []
        for noised, whole in self.samples:
            interval.append(self.intervals[noised.timesteps])
            context = skipping.sub_batch(self.modules, masks[interval[-1]])
            errors.append(sample_errors(self.objective.run(self.objective.teacher, noised, context)[0], whole))
        return interval_means(torch.cat(errors), torch.cat(interval), self.num_intervals)


@dataclass(frozen=True)
class Elimination:
    """order [N_i, N_L]: layers as they leave; errors [N_i, N_L + 1]: SkippingError after the first k have left."""

    order: torch.Tensor
    errors: torch.Tensor

    def masks(self, dropped: torch.Tensor) -> torch.Tensor:
        """[N_i, N_L] bool: what is left after the first dropped[i] layers of each interval."""
        return self.order.argsort(dim=1) >= dropped[:, None]


def eliminate(error: SkippingError, layer_macs: torch.Tensor) -> Elimination:
    """Backward elimination in all intervals at once: every layer that is left is tried, the one that adds least error
    for its MACs [N_L] leaves, until none is left. N_L (N_L + 1) / 2 passes over the samples."""
    left = torch.arange(len(layer_macs)).repeat(error.num_intervals, 1)  # as many in each interval
    masks, order, errors = torch.ones_like(left, dtype=torch.bool), [], [torch.zeros(error.num_intervals)]
    for _ in tqdm(layer_macs, desc="greedy elimination", unit="layer"):
        tried = torch.stack([error(masks.scatter(1, layer[:, None], False)) for layer in left.T], dim=1)
        best = ((tried - errors[-1][:, None]) / layer_macs[left]).argmin(1, keepdim=True)
        order.append(left.gather(1, best))
        errors.append(tried.gather(1, best)[:, 0])
        masks = masks.scatter(1, order[-1], False)
        left = left[left != order[-1]].view(error.num_intervals, -1)
    return Elimination(torch.cat(order, dim=1), torch.stack(errors, dim=1))


def cheapest(errors: torch.Tensor, active: torch.Tensor, target: float) -> torch.Tensor:
    """How many layers each interval drops, [N_i], so that the mean of active shares is at most `target` and the sum of
    errors is least (of the choices on the convex hull): k minimises error + price * active, the price by bisection.

    errors, active: [N_i, N_L + 1], by the number of layers that have left.
    """

    def dropped(price: float) -> torch.Tensor:
        return (errors + price * active).argmin(1)

    low, high = 0.0, 1.0
    while active.gather(1, dropped(high)[:, None]).mean() > target:
        high *= 2
    for _ in range(60):
        price = (low + high) / 2
        over = active.gather(1, dropped(price)[:, None]).mean() > target
        low, high = (price, high) if over else (low, price)
    return dropped(high)


def allocated(backbone: Backbone, elimination: Elimination, target: float, denominator: Denominator) -> ExpertPlan:
    """An expert an interval, `target` of the MACs on average over all of them; then the smallest correction to it."""
    costs = CostTable.budget_of(backbone, denominator)
    gone = pad(torch.tensor(costs.layers, dtype=torch.float64)[elimination.order].cumsum(1), (1, 0))
    dropped = cheapest(elimination.errors.double(), 1 - gone / costs.whole, target)
    routing = equal_intervals(backbone.num_train_timesteps, len(dropped))
    plan = ExpertPlan.for_backbone(backbone, elimination.masks(dropped), routing, target, denominator)
    return plan.corrected(target)
