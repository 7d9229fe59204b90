"""MACs of a call and of an image, by each convention.

They are counted in both conventions (alter_lib/backbones/macs.py) and as the paper's Table 1 counts: its 1384.2 G for
SD2.1 at 96 x 96 latents comes from a counter that takes every cross-attention's products for a self-attention's.
Counted so, without what norms and softmax do, SD2.1 has 1380.6 G, BK-SDM-v2 Base 874.5 (in print 876.5), Small 861.0
(863.2).
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import diffusers
import torch

from ..backbones import ADAPTERS, Backbone
from ..backbones.loading import CONFIGS
from ..backbones.macs import CONVENTIONS, LINEAR_CONV, WITH_ATTENTION, count_macs
from ..data.encode import vae_factor
from ..params import Params
from ..plan import CostTable, ExpertPlan
from ..plan.schedules import visited_timesteps
from .generation import sampler_name, sampler_scheduler
from .methods import BASELINE_CONFIGS
from .result import Metric

PAPER = "linear+conv+attention, cross-attention as self-attention (Table 1)"


@lru_cache(maxsize=16)  # a count takes seconds, whatever the size of the network
def counted(class_name: str, config: str, resolution: tuple[int, int], text_tokens: int) -> dict[str, Counter]:
    """{convention: MACs of one call by module path ("" = all)} of a denoiser from its configuration (JSON) alone."""
    with torch.device("meta"):
        denoiser = getattr(diffusers, class_name).from_config(json.loads(config))
    inputs = ADAPTERS[class_name].example_inputs(denoiser, resolution, text_tokens, "meta")
    found = {convention: count_macs(denoiser, inputs, convention) for convention in CONVENTIONS}
    if class_name == "UNet2DConditionModel":
        found[PAPER] = cross_as_self(found[WITH_ATTENTION], found[LINEAR_CONV])
    return found


def cross_as_self(macs: Counter, weights: Counter) -> Counter:
    """`macs` with the products of every cross-attention `attn2` replaced by those of the self-attention before it."""
    found = Counter(macs)
    for path in [path for path in macs if path.endswith(".attn2")]:
        own = path.removesuffix("2") + "1"
        more = (macs[own] - weights[own]) - (macs[path] - weights[path])
        parts = path.split(".")
        for above in (".".join(parts[:depth]) for depth in range(len(parts) + 1)):
            if above in macs:
                found[above] += more
    return found


def recounted(backbone: Backbone, convention: str) -> Backbone:
    """The same network with its MACs by another convention, the paper's Table 1 among them."""
    tokenizer = getattr(backbone.pipeline, "tokenizer", None)
    macs = counted(
        backbone.class_name,
        canonical(backbone.denoiser.config),
        backbone.resolution,
        tokenizer.model_max_length if tokenizer else 77,
    )[convention]
    layers = tuple(replace(layer, macs=macs[layer.name]) for layer in backbone.layers)
    fixed = macs[""] - sum(layer.macs for layer in layers)
    return replace(backbone, layers=layers, fixed_macs=fixed, macs_convention=convention)


def canonical(config: Mapping[str, Any]) -> str:
    """A configuration as JSON, without what only says where it was loaded from."""
    return json.dumps({key: value for key, value in config.items() if not key.startswith("_")}, sort_keys=True)


def conventions(backbone: Backbone) -> list[str]:
    """All that differ for this denoiser: a DiT has no cross-attention."""
    return [*CONVENTIONS, *([PAPER] if backbone.class_name == "UNet2DConditionModel" else [])]


def conditions(params: Params, backbone: Backbone, steps: int) -> dict[str, Any]:
    """What MACs depend on beside network and plan; resolution: px, of the latents that they are counted at."""
    return {
        "steps": steps,
        "sampler": sampler_name(backbone.pipeline, params.sampling),
        "guidance_scale": params.sampling.guidance_scale,
        "resolution": backbone.resolution[0] * vae_factor(backbone.pipeline),
    }


def call_metrics(
    params: Params, backbone: Backbone, steps: int, method: str = "teacher", plan: ExpertPlan | None = None
) -> list[Metric]:
    """macs_per_call by each convention: under a plan, the mean over the timesteps that `steps` visit."""
    timesteps, found, common = visited(params, backbone, steps), [], conditions(params, backbone, steps)
    for convention in conventions(backbone):
        network = recounted(backbone, convention)
        share = plan.macs_ratio(timesteps, CostTable.of(network)) if plan else 1.0
        value = round(share * network.total_macs)
        found.append(Metric("macs_per_call", method, value, unit="MACs", macs_convention=convention, **common))
    return found


def baseline_macs(name: str, resolution: tuple[int, int]) -> dict[str, int]:
    """MACs of one call of a released baseline's UNet by convention, from its configuration alone."""
    config = json.loads((CONFIGS / "sd21" / "unet.json").read_text()) | BASELINE_CONFIGS[name]
    macs = counted("UNet2DConditionModel", canonical(config), resolution, 77)
    return {convention: counter[""] for convention, counter in macs.items()}


def sampler_macs(params: Params, backbone: Backbone, steps: int, plan: ExpertPlan | None = None) -> int:
    """MACs of the denoiser for one image: every network call that the scheduler makes, twice under guidance."""
    timesteps = visited(params, backbone, steps)
    share = plan.macs_ratio(timesteps, CostTable.of(backbone)) if plan else 1.0
    evaluations = len(timesteps) * (2 if params.sampling.guidance_scale > 1 else 1)
    return round(evaluations * share * backbone.total_macs)


def visited(params: Params, backbone: Backbone, steps: int) -> list[int]:
    """The timestep 0..T-1 of each network call of the sampler in use."""
    return visited_timesteps(sampler_scheduler(backbone.pipeline, params.sampling), steps)


def cost_metrics(
    params: Params, backbone: Backbone, steps: int, method: str = "teacher", plan: ExpertPlan | None = None
) -> list[Metric]:
    """MACs of an image and, under a plan, its share of the unpruned network's."""
    convention, common = backbone.macs_convention, conditions(params, backbone, steps)
    total = sampler_macs(params, backbone, steps, plan)
    metrics = [Metric("total_macs", method, total, unit="MACs/image", macs_convention=convention, **common)]
    if plan:
        ratios = {"macs_ratio": None, "macs_ratio_visited": visited(params, backbone, steps)}
        costs = CostTable.of(backbone, params.cost.denominator)
        metrics += [Metric(name, method, plan.macs_ratio(timesteps, costs), unit="share",
                           macs_convention=f"{convention}, of {params.cost.denominator}", **common)
                    for name, timesteps in ratios.items()]  # fmt: skip
    return metrics


def baseline_cost_metrics(params: Params, backbone: Backbone, name: str) -> list[Metric]:
    """Of a baseline at each of `evaluation.steps`: MACs of a call by convention, and of an image by the params' own."""
    macs = baseline_macs(name, backbone.resolution)
    share = macs[backbone.macs_convention] / backbone.total_macs
    found = []
    for steps in params.evaluation.steps:
        total, common = round(share * sampler_macs(params, backbone, steps)), conditions(params, backbone, steps)
        found.append(Metric("total_macs", name, total, unit="MACs/image",
                            macs_convention=backbone.macs_convention, **common))  # fmt: skip
        found += [Metric("macs_per_call", name, value, unit="MACs", macs_convention=convention, **common)
                  for convention, value in macs.items()]  # fmt: skip
    return found
