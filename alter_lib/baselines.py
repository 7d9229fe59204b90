"""Plans that nobody trained a hypernetwork for, at a given ratio: what a learned plan has to beat.

Each returns an ExpertPlan whose ratio is within 1 % of the target; fine-tuning under it is the trainer's
(`training.plan`), the same as for a learned one. BK-SDM: Kim et al. 2024, "BK-SDM: a lightweight, fast and cheap
version of Stable Diffusion", §3.1; the sensitivities rank layers by the error that skipping them alone makes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from . import skipping
from .backbones import Backbone
from .data.latents import Batch
from .hypernetwork import equal_intervals
from .objective import Objective
from .params import ParamsError
from .plan import CostTable, Denominator, ExpertPlan


def drop_in_order(costs: CostTable, order: Sequence[int], target: float) -> list[bool]:
    """A mask: layers leave in this order, those apart that would take it below `target` of the MACs."""
    mask, active = [True] * len(costs.layers), costs.whole
    for layer in order:
        if active - costs.layers[layer] >= target * costs.whole:
            mask[layer], active = False, active - costs.layers[layer]
    return mask


def from_orders(
    backbone: Backbone, orders: Sequence[Sequence[int]], target: float, denominator: Denominator
) -> ExpertPlan:
    """Expert i, on the i-th equal interval, drops layers in orders[i]; then the smallest correction to the target."""
    costs = CostTable.of(backbone, denominator)
    masks = torch.tensor([drop_in_order(costs, order, target) for order in orders])
    routing = equal_intervals(backbone.num_train_timesteps, len(orders))
    return ExpertPlan.for_backbone(backbone, masks, routing, target, denominator).corrected(target)


def random_layers(backbone: Backbone, target: float, denominator: Denominator, seed: int) -> ExpertPlan:
    """One mask, layers left out in a random order."""
    order = np.random.default_rng(seed).permutation(len(backbone.layers)).tolist()
    return from_orders(backbone, [order], target, denominator)


def first_layers(backbone: Backbone, target: float, denominator: Denominator) -> ExpertPlan:
    """One mask that keeps the first layers in order of execution: the last ones are left out."""
    return from_orders(backbone, [list(reversed(range(len(backbone.layers))))], target, denominator)


def last_layers(backbone: Backbone, target: float, denominator: Denominator) -> ExpertPlan:
    """One mask that keeps the last layers in order of execution."""
    return from_orders(backbone, [list(range(len(backbone.layers)))], target, denominator)


def bk_sdm_layers(backbone: Backbone, target: float, denominator: Denominator) -> ExpertPlan:
    """One mask: first the second resnet/attention pair of each down and up stage (BK-SDM-Base), then the mid block
    (-Small), then the rest from the end, as far as the target asks. Raises ParamsError where the backbone is no UNet.
    """
    names = [layer.name for layer in backbone.layers]
    if not any(name.startswith("mid_block.") for name in names):
        raise ParamsError([f"training.plan: bk_sdm needs a UNet, the backbone is a {backbone.class_name}"])
    base = [i for i, name in enumerate(names) if name.endswith((".resnets.1", ".attentions.1")) and "mid" not in name]
    mid = [i for i, name in enumerate(names) if name.startswith("mid_block.")]
    rest = [i for i in reversed(range(len(names))) if i not in {*base, *mid}]
    return from_orders(backbone, [[*base, *mid, *rest]], target, denominator)


@torch.no_grad()
def skipping_errors(backbone: Backbone, objective: Objective, batch: Batch, num_intervals: int) -> torch.Tensor:
    """Mean squared change of the prediction when layer l alone is skipped, by interval of timesteps: [N_i, N_L].

    The timesteps of `batch` decide how many samples an interval has: spread them evenly.
    """
    noised = objective.noise(batch)
    whole = objective.run(objective.teacher, noised)[0]
    modules = [objective.teacher.get_submodule(layer.name) for layer in backbone.layers]
    interval = equal_intervals(backbone.num_train_timesteps, num_intervals)[batch.timesteps]
    errors = torch.zeros(num_intervals, len(modules))
    for index, module in enumerate(modules):
        nobody = torch.zeros(len(interval), 1, dtype=torch.bool)
        changed = objective.run(objective.teacher, noised, skipping.sub_batch([module], nobody))[0]
        error = (changed - whole).float().square().flatten(1).mean(1).cpu()
        errors[:, index] = torch.zeros(num_intervals).index_add(0, interval, error) / interval.bincount(
            minlength=num_intervals
        )
    return errors


def least_sensitive(backbone: Backbone, errors: torch.Tensor, target: float, denominator: Denominator) -> ExpertPlan:
    """Each row of `errors` [N_i, N_L] gives an expert of its interval: layers leave by error for their MACs, least
    first. One row: one mask for all timesteps. Training-free, and temporal where there are several rows."""
    macs = torch.tensor([float(layer.macs) for layer in backbone.layers])
    return from_orders(backbone, (errors / macs).argsort(dim=1).tolist(), target, denominator)


FIXED: dict[str, Callable[..., ExpertPlan]] = {
    "random": random_layers,
    "first": first_layers,
    "last": last_layers,
    "bk_sdm": bk_sdm_layers,
}
