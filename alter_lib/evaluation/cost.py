"""MACs of a call and of an image, by each convention.

They are counted in both conventions (alter_lib/backbones/macs.py) and as the paper's Table 1 counts: its 1384.2 G for
SD2.1 at 96 x 96 latents comes from a counter that takes every cross-attention's products for a self-attention's.
Counted so, without what norms and softmax do, SD2.1 has 1380.6 G, BK-SDM-v2 Base 874.5 (in print 876.5), Small 861.0
(863.2).
"""

import json
from dataclasses import replace
from functools import lru_cache

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from ..backbones import ADAPTERS, Backbone, wrap
from ..backbones.loading import CONFIGS
from ..backbones.macs import CONVENTIONS, LINEAR_CONV, WITH_ATTENTION, count_macs
from ..params import Params
from ..plan import CostTable, ExpertPlan
from ..schedules import visited_timesteps
from .generation import sampler_scheduler
from .methods import BASELINE_CONFIGS
from .result import Metric

PAPER = "linear+conv+attention, cross-attention as self-attention (Table 1)"


def attention_products(denoiser: nn.Module, resolution: tuple[int, int], text_tokens: int) -> dict[str, int]:
    """MACs of the attention matrix products by module path: of self-attentions `attn1` and cross-attentions `attn2`.

    The network may be on any device: a copy on the meta device is counted.
    """
    with torch.device("meta"):
        copy = type(denoiser).from_config(denoiser.config)
    inputs = ADAPTERS[type(denoiser).__name__].example_inputs(copy, resolution, text_tokens, "meta")
    both, weights = (count_macs(copy, inputs, convention) for convention in (WITH_ATTENTION, LINEAR_CONV))
    return {path: both[path] - weights[path] for path in both if path.endswith((".attn1", ".attn2"))}


def excess(products: dict[str, int], path: str) -> int:
    """What Table 1's counter adds below a module: self-attention's products in place of cross-attention's."""
    below = {name: macs for name, macs in products.items() if name.startswith(path + "." if path else "")}
    crossed = [name for name in below if name.endswith(".attn2")]
    return sum(below[name.removesuffix("2") + "1"] - below[name] for name in crossed)


@lru_cache(maxsize=8)
def recounted(backbone: Backbone, convention: str) -> Backbone:
    """The same network with its MACs by another convention, the paper's Table 1 among them."""
    if convention in CONVENTIONS:
        return wrap(backbone.pipeline, convention, backbone.resolution)
    whole = wrap(backbone.pipeline, WITH_ATTENTION, backbone.resolution)
    tokenizer = getattr(backbone.pipeline, "tokenizer", None)
    tokens = tokenizer.model_max_length if tokenizer else 77
    products = attention_products(backbone.denoiser, backbone.resolution, tokens)
    layers = tuple(replace(layer, macs=layer.macs + excess(products, layer.name)) for layer in whole.layers)
    total = whole.total_macs + excess(products, "")
    return replace(whole, layers=layers, fixed_macs=total - sum(layer.macs for layer in layers), macs_convention=PAPER)


def conventions(backbone: Backbone) -> list[str]:
    """All that differ for this denoiser: a DiT has no cross-attention."""
    return [*CONVENTIONS, *([PAPER] if backbone.class_name == "UNet2DConditionModel" else [])]


def call_metrics(
    params: Params, backbone: Backbone, steps: int, method: str = "teacher", plan: ExpertPlan | None = None
) -> list[Metric]:
    """macs_per_call by each convention: under a plan, the mean over the timesteps that `steps` visit."""
    timesteps, found = visited(params, backbone, steps), []
    for convention in conventions(backbone):
        counted = recounted(backbone, convention)
        share = plan.macs_ratio(timesteps, CostTable.of(counted)) if plan else 1.0
        value = round(share * counted.total_macs)
        found.append(Metric("macs_per_call", method, value, steps, unit="MACs", macs_convention=convention))
    return found


def baseline_macs(name: str, resolution: tuple[int, int]) -> dict[str, int]:
    """MACs of one call of a released baseline's UNet by convention, from its configuration alone."""
    config = json.loads((CONFIGS / "sd21" / "unet.json").read_text()) | BASELINE_CONFIGS[name]
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    inputs = ADAPTERS["UNet2DConditionModel"].example_inputs(unet, resolution, 77, "meta")
    found = {convention: count_macs(unet, inputs, convention)[""] for convention in CONVENTIONS}
    return found | {PAPER: found[WITH_ATTENTION] + excess(attention_products(unet, resolution, 77), "")}


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
    convention = backbone.macs_convention
    total = sampler_macs(params, backbone, steps, plan)
    metrics = [Metric("total_macs", method, total, steps, unit="MACs/image", macs_convention=convention)]
    if plan:
        ratios = {"macs_ratio": None, "macs_ratio_visited": visited(params, backbone, steps)}
        costs = CostTable.of(backbone, params.cost.denominator)
        metrics += [Metric(name, method, plan.macs_ratio(timesteps, costs), steps, unit="share",
                           macs_convention=f"{convention}, of {params.cost.denominator}")
                    for name, timesteps in ratios.items()]  # fmt: skip
    return metrics


def baseline_cost_metrics(params: Params, backbone: Backbone, name: str) -> list[Metric]:
    """Of a baseline at each of `evaluation.steps`: MACs of a call by convention, and of an image by the params' own."""
    macs = baseline_macs(name, backbone.resolution)
    share = macs[backbone.macs_convention] / backbone.total_macs
    found = []
    for steps in params.evaluation.steps:
        total = round(share * sampler_macs(params, backbone, steps))
        found.append(Metric("total_macs", name, total, steps, unit="MACs/image",
                            macs_convention=backbone.macs_convention))  # fmt: skip
        found += [Metric("macs_per_call", name, value, steps, unit="MACs", macs_convention=convention)
                  for convention, value in macs.items()]  # fmt: skip
    return found
