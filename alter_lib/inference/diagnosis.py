"""doctor: is a plan really active, what does it skip, and what of the ideal speedup reaches the clock?"""

from collections import Counter
from dataclasses import dataclass, replace
from statistics import median

import torch
from diffusers import DiffusionPipeline

from ..backbones import denoiser_of, wrap
from ..backbones.timing import Call, call_at, interleaved, random_inputs
from ..plan import CostTable, ExpertPlan
from ..plan.schedules import visited_timesteps
from .compaction import dropped_layers
from .patching import Patch, patch_of


@dataclass(frozen=True)
class Diagnosis:
    """What doctor found; print it.

    skipped: layers that the latest call of the denoiser did not run, None before any call; a layer counts as run if any
    sample ran it. steps and calls: of the sampler (PNDM calls 21 times for 20 steps). plan_ratio: active MACs over all
    T timesteps; ratio: over the timesteps that this sampler visits, at `resolution` (latent h, w).
    latency_ratio: likewise over the visited ones, of a plan whose budget is in latency.
    ideal_speedup: 1 / ratio; measured_speedup: seconds of an unpruned call over a pruned one, weighted by the visits;
    None where layers were dropped, since there is no unpruned call left. compiled: both kinds of calls were.
    """

    active: bool
    fault: str | None = None
    num_layers: int = 0
    skipped: tuple[str, ...] | None = None
    scheduler: str = ""
    steps: int = 0
    calls: int = 0
    experts: tuple[int, ...] = ()
    resolution: tuple[int, int] = (0, 0)
    convention: str = ""
    plan_ratio: float = 1.0
    ratio: float = 1.0
    latency_ratio: float | None = None
    dropped: int = 0
    ideal_speedup: float = 1.0
    measured_speedup: float | None = None
    unpruned_seconds: float | None = None
    pruned_seconds: float | None = None
    device: str = ""
    batch_size: int = 1
    compiled: bool = False

    def __str__(self) -> str:
        if not self.active:
            return f"plan: NOT ACTIVE, the pipeline runs unpruned: {self.fault}"
        if self.skipped is None:
            skipped = "nothing yet: the denoiser was not called since apply_plan"
        else:
            skipped = f"{len(self.skipped)} of {self.num_layers} prunable layers: {', '.join(self.skipped) or 'none'}"
        lines = [
            "plan: active",
            f"latest call skipped: {skipped}",
            f"sampler: {self.scheduler}, {self.steps} steps, {self.calls} calls of the denoiser, "
            f"experts {', '.join(map(str, self.experts))}",
            f"active MACs: {self.ratio:.2%} over the visited timesteps, {self.plan_ratio:.2%} over all "
            f"({self.resolution[0]} x {self.resolution[1]} latents, {self.convention})",
            f"ideal speedup: {self.ideal_speedup:.2f}x",
        ]
        if self.latency_ratio is not None:
            lines.append(f"active latency by the plan's table: {self.latency_ratio:.2%} over the visited timesteps")
        if self.dropped:
            lines.append(
                f"dropped: {self.dropped} layers that no expert runs; there is no unpruned call to compare with"
            )
        if self.measured_speedup is not None:
            lines.append(
                f"measured speedup: {self.measured_speedup:.2f}x ({self.unpruned_seconds * 1e3:.1f} ms unpruned, "
                f"{self.pruned_seconds * 1e3:.1f} ms pruned a call, batch {self.batch_size}, {self.device}"
                f"{', both compiled' if self.compiled else ''})"
            )
        return "\n".join(lines)


def doctor(
    pipe: DiffusionPipeline,
    steps: int | None = None,
    resolution: tuple[int, int] | None = None,
    batch_size: int = 1,
    measure: bool = True,
    repeats: int = 5,
) -> Diagnosis:
    """Examine a pipeline under a plan.

    Args:
        steps: of the sampler; None for those of the latest run, else 20.
        resolution: latent (h, w) at which MACs are counted and time is taken; None for the plan's.
        batch_size: of the timed calls (guidance doubles the batch of a pipeline).
        measure: time `repeats` calls of the unpruned denoiser and of each visited expert, one after the other. Under a
            compiled plan all are compiled, with one graph more for the unpruned denoiser.
    Raises PlanError where the pipeline's scheduler has no timesteps 0..T-1.
    """
    patch = patch_of(pipe)
    if patch is None:
        return Diagnosis(active=False, fault="no plan is applied (apply_plan, load_pipeline)")
    lost = [r for r in (patch.denoiser, *patch.layers) if not r.in_place()]
    if lost:
        return Diagnosis(active=False, fault=f"{len(lost)} modules had their forward replaced after apply_plan")
    steps = steps or getattr(pipe.scheduler, "num_inference_steps", None) or 20
    visited = visited_timesteps(pipe.scheduler, steps)
    costs = cost_table(pipe, patch.plan, resolution)
    found = replace(counted(pipe, patch, visited, costs), steps=steps, batch_size=batch_size)
    if not measure:
        return found
    inputs = random_inputs(pipe, costs.resolution, batch_size)
    if wrong := wrong_layers(patch, visited, inputs):
        return Diagnosis(active=False, fault=f"layers that do not follow the plan: {', '.join(wrong)}")
    pruned, unpruned = call_seconds(patch, visited, inputs, repeats)
    speedup = unpruned and unpruned / pruned
    return replace(found, pruned_seconds=pruned, unpruned_seconds=unpruned, measured_speedup=speedup)


def counted(pipe: DiffusionPipeline, patch: Patch, visited: list[int], costs: CostTable) -> Diagnosis:
    """What needs no clock: the plan's experts and ratios over the visited timesteps, and the latest call's skips."""
    plan, ratio = patch.plan, patch.plan.macs_ratio(visited, costs)
    return Diagnosis(
        active=True,
        num_layers=len(plan.layer_names),
        skipped=latest_skips(patch),
        scheduler=type(pipe.scheduler).__name__,
        calls=len(visited),
        experts=tuple(sorted({plan.expert(t) for t in visited})),
        resolution=costs.resolution,
        convention=costs.convention,
        plan_ratio=plan.macs_ratio(costs=costs),
        ratio=ratio,
        latency_ratio=plan.macs_ratio(visited, plan.latency) if plan.latency else None,
        dropped=len(dropped_layers(pipe)),
        ideal_speedup=1 / ratio,
        device=str(denoiser_of(pipe).device),
        compiled=patch.graphs is not None and not patch.graphs.dynamic_inside(),
    )


def cost_table(pipe: DiffusionPipeline, plan: ExpertPlan, resolution: tuple[int, int] | None) -> CostTable:
    """The MACs of the whole network as denominator (what the clock sees), recounted at another resolution."""
    if resolution is None or tuple(resolution) == tuple(plan.cost.resolution):
        return CostTable(plan.cost.layers, plan.cost.fixed, plan.cost.convention, plan.cost.resolution)
    return CostTable.of(wrap(pipe, plan.cost.convention, resolution))


def latest_skips(patch: Patch) -> tuple[str, ...] | None:
    """Names of the layers that no sample of the latest call ran."""
    if not patch.last_sets:
        return None
    layers = zip(patch.plan.layer_names, zip(*patch.last_sets, strict=True), strict=True)
    return tuple(name for name, runs in layers if not any(runs))


def expert_calls(patch: Patch, visited: list[int], inputs: list[torch.Tensor]) -> dict[int, Call]:
    """For each visited expert a call of the denoiser that it serves."""
    denoiser = patch.denoiser.module
    return {patch.plan.expert(t): call_at(denoiser, inputs, torch.tensor(t, device=denoiser.device)) for t in visited}


@torch.no_grad()
def wrong_layers(patch: Patch, visited: list[int], inputs: list[torch.Tensor]) -> list[str]:
    """Names of the layers that run where the plan skips them or the other way round, seen by hooks inside them."""
    ran: set[int] = set()
    dropped = dropped_layers(patch.denoiser.module)
    here = [i for i, name in enumerate(patch.plan.layer_names) if name not in dropped]
    # the last submodule with weights: the first may serve others (DiT's output head reads the embedder of block 0)
    leaves = {i: [m for m in patch.layers[i].module.modules() if m._parameters][-1] for i in here}
    hooks = [leaf.register_forward_hook(lambda *_, i=i: ran.add(i)) for i, leaf in leaves.items()]
    wrong, kept, graphs = set(), patch.last_sets, patch.graphs
    patch.graphs = None  # a compiled graph has no hooks
    for expert, call in expert_calls(patch, visited, inputs).items():
        ran.clear()
        call()
        wrong |= ran ^ set(patch.plan.masks[expert].nonzero()[:, 0].tolist())
    patch.last_sets, patch.graphs = kept, graphs
    for hook in hooks:
        hook.remove()
    return [patch.plan.layer_names[i] for i in sorted(wrong)]


def call_seconds(
    patch: Patch, visited: list[int], inputs: list[torch.Tensor], repeats: int
) -> tuple[float, float | None]:
    """Median seconds of a pruned call, averaged over the visited timesteps, and of an unpruned call if there is one."""
    kept, denoiser = patch.last_sets, patch.denoiser.module
    calls: dict[int | None, Call] = {**expert_calls(patch, visited, inputs)}
    if not dropped_layers(denoiser):
        calls[None] = call_at(denoiser, inputs, forward=patch.denoiser.unpruned)
    seconds = interleaved(calls, denoiser.device, repeats)
    patch.last_sets = kept
    visits = Counter(patch.plan.expert(t) for t in visited)
    pruned = sum(median(seconds[expert]) * count for expert, count in visits.items()) / len(visited)
    return pruned, median(seconds[None]) if None in seconds else None
