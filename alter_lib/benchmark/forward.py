"""A forward under the run's plan and under seeded random ones, beside the unpruned forward."""

from collections import Counter
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..backbones import Backbone, load_backbone
from ..backbones.timing import Call, call_at, interleaved, random_inputs
from ..inference import apply_plan, remove_plan
from ..inference.diagnosis import expert_calls
from ..inference.patching import patch_of
from ..params import Params
from ..plan import ExpertPlan
from ..plan.costs import CostTable
from ..plan.schedules import visited_timesteps


def spread(values: list[float] | np.ndarray) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "q25": low, "q75": high}


def random_mask(costs: CostTable, ratio: float, random: np.random.Generator) -> list[bool]:
    """Layers are left out in random order as long as at least `ratio` of the cost stays."""
    mask, active = np.ones(len(costs.layers), bool), costs.whole
    for layer in random.permutation(len(mask)):
        if active - costs.layers[layer] >= ratio * costs.whole:
            mask[layer], active = False, active - costs.layers[layer]
    return mask.tolist()


def random_plan(backbone: Backbone, ratio: float, seed: int, num_experts: int = 1) -> ExpertPlan:
    """Random masks at `ratio` of the total MACs (or of the latency, where the backbone carries a table of it), on equal
    intervals of timesteps."""
    random, total = np.random.default_rng(seed), backbone.num_train_timesteps
    masks = [random_mask(CostTable.budget_of(backbone), ratio, random) for _ in range(num_experts)]
    return ExpertPlan.for_backbone(backbone, torch.tensor(masks), torch.arange(total) * num_experts // total, ratio)


def time_forward(
    backbone: Backbone, plan: ExpertPlan, visited: list[int], batch_size: int, repeats: int
) -> dict[str, Any]:
    """Seconds of a call under `plan`, averaged over the `visited` timesteps, beside those of an unpruned call."""
    apply_plan(backbone.pipeline, plan)
    patch, device = patch_of(backbone.pipeline), backbone.denoiser.device
    inputs = random_inputs(backbone.pipeline, backbone.resolution, batch_size)
    calls: dict[int | None, Call] = {**expert_calls(patch, visited, inputs)}
    calls[None] = call_at(backbone.denoiser, inputs, forward=patch.denoiser.original)
    seconds = {key: np.array(values) for key, values in interleaved(calls, device, repeats).items()}
    remove_plan(backbone.pipeline)
    shares = Counter(plan.expert(t) for t in visited)
    pruned = sum(seconds[expert] * count for expert, count in shares.items()) / len(visited)
    return {
        "macs_ratio": plan.macs_ratio(visited, CostTable.of(backbone)),
        "pruned_over_unpruned": spread(pruned / seconds[None]),
        "pruned_seconds": spread(pruned),
        "unpruned_seconds": spread(seconds[None]),
    }


def random_plans(
    backbone: Backbone, ratio: float, visited: list[int], batch_size: int, plans: int, repeats: int
) -> dict[str, Any]:
    """`plans` seeded random plans at `ratio`: each one's figures, and their median, worst and best."""
    found = [
        time_forward(backbone, random_plan(backbone, ratio, seed), visited, batch_size, repeats)
        for seed in tqdm(range(plans), desc="random plans")
    ]
    medians = [each["pruned_over_unpruned"]["median"] for each in found]
    return {"median": float(np.median(medians)), "worst": max(medians), "best": min(medians), "plans": found}


def forwards(params: Params, plan: ExpertPlan | None, plans: int, repeats: int) -> dict[str, Any]:
    """The run's plan, if there is one, and `plans` random ones at loss.target_ratio."""
    backbone = load_backbone(params.backbone, cost=params.cost)
    visited = visited_timesteps(backbone.pipeline.scheduler, params.sampling.steps)
    size, found = params.sampling.batch_size, {}
    if plan:
        found["learned"] = time_forward(backbone, plan, visited, size, repeats)
    if plans:
        found["random"] = random_plans(backbone, params.loss.target_ratio, visited, size, plans, repeats)
    return found | {"batch_size": size}
