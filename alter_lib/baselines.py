"""Plans that nobody trained a hypernetwork for, at a given ratio: what a learned plan has to beat.

Each returns an ExpertPlan whose ratio is within 1 % of the target; fine-tuning under it is the trainer's
(`training.plan`), the same as for a learned one. BK-SDM: Kim et al. 2024, "BK-SDM: a lightweight, fast and cheap
version of Stable Diffusion", §3.1; the sensitivities rank layers by the error that skipping them alone makes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from . import skipping
from .backbones import Backbone
from .data.latents import Batch, Batches
from .greedy import SkippingError, allocated, eliminate
from .hypernetwork import equal_intervals
from .inference.artefact import fitted
from .losses import interval_means, sample_errors
from .params import Params, ParamsError, resolve
from .params.training import PLANS
from .plan import CostTable, ExpertPlan
from .plan.costs import Denominator
from .plan.file import plan_path
from .training.objective import Objective

SAMPLES = 256  # behind the sensitivities of layers: with ten intervals some 25 each


def drop_in_order(costs: CostTable, order: Sequence[int], target: float) -> list[bool]:
    """A mask: layers leave in this order, those apart that would take it below `target` of the cost."""
    mask, active = [True] * len(costs.layers), costs.whole
    for layer in order:
        if active - costs.layers[layer] >= target * costs.whole:
            mask[layer], active = False, active - costs.layers[layer]
    return mask


def from_orders(
    backbone: Backbone, orders: Sequence[Sequence[int]], target: float, denominator: Denominator
) -> ExpertPlan:
    """Expert i, on the i-th equal interval, drops layers in orders[i]; then the smallest correction to the target."""
    costs = CostTable.budget_of(backbone, denominator)
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


def unpruned(backbone: Backbone, target: float, denominator: Denominator) -> ExpertPlan:
    """One mask with every layer, whatever the target: the control, the teacher fine-tuned by the same updates."""
    masks = torch.ones(1, len(backbone.layers), dtype=torch.bool)
    return ExpertPlan.for_backbone(backbone, masks, equal_intervals(backbone.num_train_timesteps, 1), 1.0, denominator)


def evenly_timed(batches: Batches, batch_size: int, num_timesteps: int, samples: int) -> Iterator[Batch]:
    """The first batches of training, `samples` samples or a few more, their timesteps spread evenly over 0..T-1."""
    count = -(-samples // batch_size)
    timesteps = torch.arange(count * batch_size) * num_timesteps // (count * batch_size)
    for k in range(count):
        yield replace(batches.batch(k), timesteps=timesteps[k::count])


@torch.no_grad()
def skipping_errors(
    backbone: Backbone, objective: Objective, batches: Iterable[Batch], num_intervals: int
) -> torch.Tensor:
    """Mean squared change of the prediction when layer l alone is skipped, by interval of timesteps: [N_i, N_L]."""
    modules = [objective.teacher.get_submodule(layer.name) for layer in backbone.layers]
    intervals = equal_intervals(backbone.num_train_timesteps, num_intervals)
    errors, interval = [], []
    for batch in batches:
        noised, nobody = objective.noise(batch), torch.zeros(len(batch.timesteps), 1, dtype=torch.bool)
        whole = objective.run(objective.teacher, noised)[0]
        contexts = (skipping.sub_batch([module], nobody) for module in modules)
        alone = [sample_errors(objective.run(objective.teacher, noised, context)[0], whole) for context in contexts]
        errors.append(torch.stack(alone, dim=1))
        interval.append(intervals[batch.timesteps])
    return interval_means(torch.cat(errors), torch.cat(interval), num_intervals)


def layer_costs(backbone: Backbone) -> torch.Tensor:
    """[N_L], in what the budget is counted in."""
    return torch.tensor(CostTable.budget_of(backbone).layers, dtype=torch.float)


def least_sensitive(backbone: Backbone, errors: torch.Tensor, target: float, denominator: Denominator) -> ExpertPlan:
    """Each row of `errors` [N_i, N_L] gives an expert of its interval: layers leave by error for their MACs (or
    latency, where that is the budget), least first. One row: one mask for all timesteps. Training-free, and temporal
    where there are several rows."""
    return from_orders(backbone, (errors / layer_costs(backbone)).argsort(dim=1).tolist(), target, denominator)


FIXED: dict[str, Callable[..., ExpertPlan]] = {
    "random": random_layers,
    "first": first_layers,
    "last": last_layers,
    "bk_sdm": bk_sdm_layers,
    "unpruned": unpruned,
}


def given_plan(params: Params, backbone: Backbone, objective: Objective, batches: Batches) -> ExpertPlan:
    """The plan that `training.plan` names: a baseline at loss.target_ratio, or a file's, taken as it is.

    `random` draws by run.seed; `*_intervals` have hypernetwork.num_experts intervals. Raises ParamsError where
    the name is neither a baseline nor a file, PlanError for a plan of another backbone.
    """
    name, target, denominator = params.training.plan, params.loss.target_ratio, params.cost.denominator
    if name in FIXED:
        seed = {"seed": params.run.seed} if name == "random" else {}
        return FIXED[name](backbone, target, denominator, **seed)
    if name in PLANS:
        num_intervals = params.hypernetwork.num_experts if name.endswith("_intervals") else 1
        timed = evenly_timed(batches, params.training.batch_size, backbone.num_train_timesteps, SAMPLES)
        if name.startswith("greedy"):
            error = SkippingError.on(backbone, objective, timed, num_intervals)
            return allocated(backbone, eliminate(error, layer_costs(backbone)), target, denominator)
        errors = skipping_errors(backbone, objective, timed, num_intervals)
        return least_sensitive(backbone, errors, target, denominator)
    if not plan_path(resolve(name)).is_file():
        allowed = f"a plan.json, a folder with one, or one of {', '.join(PLANS)}"
        raise ParamsError([f"training.plan: {name!r} is not {allowed}"])
    plan = fitted(ExpertPlan.load(resolve(name)), backbone.denoiser, f"training.plan: {name}")
    return ExpertPlan.for_backbone(backbone, plan.masks, plan.routing, plan.target_ratio, denominator)
