"""What is timed on one denoiser: the same calls unpruned, under a plan, and under other methods and combinations.

Each method is a handful of distinct calls and how often a sampler makes each; copies of the denoiser share its weights.
"""

import copy
import importlib.util
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import tomesd
import torch
from diffusers import PyramidAttentionBroadcastConfig, UNet2DConditionModel
from diffusers.hooks import apply_pyramid_attention_broadcast
from torch import nn

from ..backbones import Backbone
from ..backbones.macs import count_macs
from ..backbones.timing import Call, call_at, interleaved, random_inputs
from ..inference import apply_plan, remove_plan
from ..inference.compilation import Compilation
from ..plan import ExpertPlan
from ..plan.schedules import visited_timesteps
from .forward import spread

DEEPCACHE_INTERVAL = 3  # a full call, then two that run the outermost layers alone
PYRAMID_INTERVAL = 2  # attention is computed in every second call
PYRAMID = f"ALTER + pyramid attention, interval {PYRAMID_INTERVAL}"
TOME_RATIO = 0.5  # of the tokens merged: Table 9's middle row
Share = Callable[[list[int]], Mapping[Any, int]]  # visited timesteps -> how often each call is made


@dataclass(frozen=True)
class Method:
    """calls by key; count: visited timesteps -> keys with their numbers; macs: visited timesteps -> active share, None
    where it is not a matter of layers alone."""

    name: str
    calls: Mapping[Any, Call]
    count: Share
    macs: Callable[[list[int]], float] | None = None


@dataclass(frozen=True)
class Bench:
    """One backbone, one batch: what all methods are built from. inputs: of a call; timesteps: all that are visited."""

    backbone: Backbone
    plan: ExpertPlan
    inputs: list[torch.Tensor]
    timesteps: list[int]

    def twin(self, own_weights: bool = False) -> nn.Module:
        """A copy of the denoiser that shares its parameters, unless it is to change them; without any plan."""
        denoiser = self.backbone.denoiser
        shared = [] if own_weights else [*denoiser.parameters(), *denoiser.buffers()]
        twin = copy.deepcopy(denoiser, {id(tensor): tensor for tensor in shared})
        remove_plan(twin)
        return twin

    def call(self, denoiser: nn.Module, t: int | None = None, forward: Callable | None = None) -> Call:
        device = self.inputs[0].device
        return call_at(denoiser, self.inputs, None if t is None else torch.tensor(t, device=device), forward)


def unpruned(bench: Bench, name: str = "unpruned", **compile: Any) -> Method:
    twin = bench.twin()
    forward = Compilation(**compile).compiled(twin.forward, 1) if compile else None
    return Method(name, {None: bench.call(twin, forward=forward)}, lambda visited: {None: len(visited)}, lambda _: 1.0)


def pruned(bench: Bench, name: str, plan: ExpertPlan | None = None, tome: bool = False, **options: Any) -> Method:
    """Under a plan; options: of apply_plan."""
    plan, twin = plan or bench.plan, bench.twin(own_weights=bool(options.get("channels_last")))
    if tome:
        tomesd.apply_patch(twin, ratio=TOME_RATIO)
    apply_plan(twin, plan, **options)
    calls = {plan.expert(t): bench.call(twin, t) for t in bench.timesteps}
    return Method(name, calls, lambda visited: Counter(map(plan.expert, visited)), None if tome else plan.macs_ratio)


def all_ones(bench: Bench) -> Method:
    """Every layer runs: what remains is the overhead of routing and replaced forwards."""
    masks, total = torch.ones(1, len(bench.backbone.layers), dtype=torch.bool), bench.backbone.num_train_timesteps
    plan = ExpertPlan.for_backbone(bench.backbone, masks, torch.zeros(total, dtype=torch.long))
    return pruned(bench, "all-ones plan", plan)


def tome(bench: Bench) -> Method:
    twin = tomesd.apply_patch(bench.twin(), ratio=TOME_RATIO)
    return Method("ToMe 0.5", {None: bench.call(twin)}, lambda visited: {None: len(visited)})


def deepcache(bench: Bench, plan: ExpertPlan | None = None) -> Method:
    """DeepCache's own helper, alone or over a plan. Whether a call is full goes by the place of t in the schedule."""
    from DeepCache import DeepCacheSDHelper

    twin = bench.twin()
    if plan:
        apply_plan(twin, plan)
    scheduler = SimpleNamespace(timesteps=[])
    helper = DeepCacheSDHelper(SimpleNamespace(unet=twin, scheduler=scheduler))
    helper.set_params(cache_interval=DEEPCACHE_INTERVAL, cache_branch_id=0)
    helper.enable()
    helper.start_timestep = 0

    def at(t: int, full: bool) -> Call:
        call, position = bench.call(twin, t), [t] if full else [-1, t]
        return lambda: (setattr(scheduler, "timesteps", position), call())

    def expert(t: int) -> int | None:
        return plan and plan.expert(t)

    calls = {(expert(t), full): at(t, full) for full in (True, False) for t in bench.timesteps}
    name = f"{'ALTER + ' if plan else ''}DeepCache, interval {DEEPCACHE_INTERVAL}"
    return Method(name, calls, lambda visited: Counter((expert(t), i % DEEPCACHE_INTERVAL == 0)
                                                       for i, t in enumerate(visited)))  # fmt: skip


def pyramid_attention(bench: Bench) -> Method:
    """Diffusers' pyramid attention broadcast over a plan: attention outputs are kept for the next call."""
    plan, twin, everywhere = bench.plan, bench.twin(), (-1, bench.backbone.num_train_timesteps)
    apply_plan(twin, plan)
    apply_pyramid_attention_broadcast(twin, PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=PYRAMID_INTERVAL, cross_attention_block_skip_range=PYRAMID_INTERVAL,
        spatial_attention_timestep_skip_range=everywhere, cross_attention_timestep_skip_range=everywhere,
        current_timestep_callback=lambda: 0,
    ))  # fmt: skip
    hooked = (vars(module).get("_diffusers_hook") for module in twin.modules())
    states = [hooks.get_hook("pyramid_attention_broadcast").state for hooks in hooked if hooks]

    def at(t: int, full: bool) -> Call:
        call = bench.call(twin, t)
        return lambda: ([setattr(state, "iteration", 0 if full else 1) for state in states], call())

    calls = {(plan.expert(t), full): at(t, full) for full in (True, False) for t in bench.timesteps}
    return Method(PYRAMID, calls, lambda visited: Counter((plan.expert(t), i % PYRAMID_INTERVAL == 0)
                                                          for i, t in enumerate(visited)))  # fmt: skip


def half(bench: Bench) -> Method:
    """A plan in bfloat16, beside the float32 that everything else runs in."""
    twin = bench.twin(own_weights=True).to(torch.bfloat16)
    inputs = [value.to(torch.bfloat16) if value.is_floating_point() else value for value in bench.inputs]
    backbone = replace(bench.backbone, denoiser=twin)
    return pruned(replace(bench, backbone=backbone, inputs=inputs), "ALTER, bfloat16")


def int8(bench: Bench) -> Method:
    """A plan with int8 weights (torchao, weights only)."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    twin = bench.twin(own_weights=True)
    quantize_(twin, Int8WeightOnlyConfig(version=2))
    return pruned(replace(bench, backbone=replace(bench.backbone, denoiser=twin)), "ALTER, int8 weights")


def bk_sdm_config(config: Mapping[str, Any], small: bool) -> dict[str, Any]:
    """Of a UNet's configuration; private keys are left out, since diffusers would restore its defaults by them."""
    public = {key: value for key, value in config.items() if not key.startswith("_")}
    return {**public, "layers_per_block": 1} | ({"mid_block_type": None} if small else {})


def bk_sdm(bench: Bench, small: bool) -> Method:
    """BK-SDM's architectures: one residual-attention pair fewer in each stage; -Small has no middle block either."""
    denoiser = bench.backbone.denoiser
    config = bk_sdm_config(denoiser.config, small)
    with torch.device(denoiser.device):
        slim = UNet2DConditionModel.from_config(config).to(denoiser.dtype).eval().requires_grad_(False)
    with torch.device("meta"):
        meta = UNet2DConditionModel.from_config(config)
    sizes = [value[:1].to("meta") if value.ndim else value.to("meta")[None] for value in bench.inputs]
    sizes = [value.float() if value.is_floating_point() else value for value in sizes]
    inputs = dict(zip(("sample", "timestep", "encoder_hidden_states"), sizes, strict=True))
    share = count_macs(meta, inputs, bench.backbone.macs_convention)[""] / bench.backbone.total_macs
    name = f"BK-SDM-{'Small' if small else 'Base'}"
    return Method(name, {None: bench.call(slim)}, lambda visited: {None: len(visited)}, lambda _: share)


def methods(bench: Bench, compiled: bool) -> dict[str, Callable[[], Method]]:
    """What builds each method that the denoiser, the device and the installed packages can run, by name."""
    on_cuda = bench.inputs[0].device.type == "cuda"
    found = {
        "unpruned": lambda: unpruned(bench),
        "all-ones plan": lambda: all_ones(bench),
        "ALTER": lambda: pruned(bench, "ALTER"),
        "ALTER, channels last": lambda: pruned(bench, "ALTER, channels last", channels_last=True),
        "ALTER, fused projections": lambda: pruned(bench, "ALTER, fused projections", fuse_projections=True),
    }
    found[PYRAMID] = lambda: pyramid_attention(bench)
    if bench.backbone.denoiser.dtype == torch.float32:
        found["ALTER, bfloat16"] = lambda: half(bench)
    if importlib.util.find_spec("torchao"):  # the extra `quantise`
        found["ALTER, int8 weights"] = lambda: int8(bench)
    if isinstance(bench.backbone.denoiser, UNet2DConditionModel):
        found |= unet_methods(bench)
    if compiled:
        found["unpruned, compiled"] = lambda: unpruned(bench, "unpruned, compiled", backend="inductor")
        found["ALTER, compiled"] = lambda: pruned(bench, "ALTER, compiled", compile=True)
    if compiled and on_cuda:
        graphs = {"mode": "reduce-overhead"}
        found["unpruned, CUDA graphs"] = lambda: unpruned(bench, "unpruned, CUDA graphs", **graphs)
        found["ALTER, CUDA graphs"] = lambda: pruned(bench, "ALTER, CUDA graphs", compile=graphs)
    return found


def unet_methods(bench: Bench) -> dict[str, Callable[[], Method]]:
    found = {
        "BK-SDM-Base": lambda: bk_sdm(bench, small=False),
        "BK-SDM-Small": lambda: bk_sdm(bench, small=True),
        "ToMe 0.5": lambda: tome(bench),
        "ALTER + ToMe 0.5": lambda: pruned(bench, "ALTER + ToMe 0.5", tome=True),
    }
    if importlib.util.find_spec("DeepCache"):  # of the extra `deploy`
        name = f"DeepCache, interval {DEEPCACHE_INTERVAL}"
        found |= {name: lambda: deepcache(bench), f"ALTER + {name}": lambda: deepcache(bench, bench.plan)}
    return found


def measure(
    backbone: Backbone,
    plan: ExpertPlan,
    denoiser_batch: int,
    steps: Sequence[int],
    repeats: int,
    compiled: bool = False,
    names: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """A row for each method (`names`: of these alone, `unpruned` among them) and number of steps of the pipeline's
    sampler."""
    visited = {number: visited_timesteps(backbone.pipeline.scheduler, number) for number in steps}
    inputs = random_inputs(backbone.pipeline, backbone.resolution, denoiser_batch)
    bench = Bench(backbone, plan, inputs, list(dict.fromkeys(t for each in visited.values() for t in each)))
    found = [build() for name, build in methods(bench, compiled).items() if names is None or name in names]
    keyed = {(method.name, key): call for method in found for key, call in method.calls.items()}
    seconds = interleaved(keyed, backbone.denoiser.device, repeats, description=f"methods, batch {denoiser_batch}")
    reference = np.array(seconds["unpruned", None])
    facts = {"denoiser_batch": denoiser_batch, "sampler": type(backbone.pipeline.scheduler).__name__}
    return [
        {"method": method.name, "steps": number, "calls": len(each), **facts}
        | figures(method, each, seconds, reference)
        for method in found
        for number, each in visited.items()
    ]


def figures(method: Method, visited: list[int], seconds: Mapping, reference: np.ndarray) -> dict[str, Any]:
    """Seconds of an average call, its share of an unpruned call's, and what of the saved MACs reaches the clock."""
    counts = method.count(visited)
    mean = sum(np.array(seconds[method.name, key]) * count for key, count in counts.items()) / sum(counts.values())
    ratio = method.macs and method.macs(visited)
    return {
        "macs_ratio": ratio,
        "seconds": spread(mean),
        "over_unpruned": spread(mean / reference),
        "of_the_ideal": ratio and spread(ratio * reference / mean),  # 1: all that the MACs promise
    }
