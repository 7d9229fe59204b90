"""Deploying a plan: on a stock diffusers pipeline and off again, compiled, warmed up.

pipe = load_pipeline("runs/tiny_sd/alter")      # weights and plan
images = pipe("red apple", num_inference_steps=20).images
"""

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from ..backbones import denoiser_of
from ..backbones.loading import WEIGHT_ERRORS, check_weights, one_line
from ..common.faults import BadInput
from ..plan import ExpertPlan
from ..plan.file import PlanError
from .artefact import HUB_ARGUMENTS, fitted, load_plan, no_word_of_missing_weights, plan_beside
from .compaction import check_layers_are_there, drop_layers, dropped_layers
from .compilation import Compilation
from .layout import Layout
from .patching import Patch, patch_of


def apply_plan(
    target: DiffusionPipeline | nn.Module,
    plan: ExpertPlan | str | os.PathLike | None = None,
    compile: bool | str | Callable | Mapping[str, Any] = False,
    channels_last: bool = False,
    fuse_projections: bool = False,
) -> None:
    """Make a pipeline (or a bare denoiser) run each timestep's expert: the layers that it leaves out are not called.

    Everything else stays as it is: any scheduler and number of steps, callbacks, guidance, image-to-image, LoRA,
    offloading, mixed timesteps in one batch. A plan that is already applied is replaced.

    Args:
        plan: a plan, the path of one, or None for the plan.json beside the loaded weights.
        compile: True compiles one static graph for each distinct set of active layers and form of the inputs, on its
            first use or by `warm_up`. A text or a callable names the backend of torch.compile, a mapping its `backend`,
            `mode` ("reduce-overhead" replays CUDA graphs), `options` and `fullgraph`. Mixed timesteps in one batch, and
            calls under DeepCache, diffusers' caches or sequential offloading, run uncompiled.
        channels_last: memory format of the convolutions' weights. fuse_projections: one product for query, key and
            value; needs memory for a second copy of them.
    Raises PlanError where the plan is missing or made for another backbone; the pipeline is then left as it was.
    """
    denoiser, where = denoiser_of(target), "plan"
    if not isinstance(plan, ExpertPlan):
        plan, where = plan_beside(target, denoiser) if plan is None else (ExpertPlan.load(plan), plan)
    fitted(plan, denoiser, where)
    check_layers_are_there(plan, denoiser)
    Layout.check(denoiser, fuse_projections)
    take_off(denoiser)
    layout = Layout.applied(denoiser, channels_last, fuse_projections)
    Patch(denoiser, plan, None if isinstance(target, nn.Module) else target, Compilation.of(compile), layout)


def remove_plan(target: DiffusionPipeline | nn.Module) -> None:
    """Take the plan off: outputs are those from before apply_plan, bit for bit. Without a plan nothing happens.

    Raises PlanError where layers were dropped: without a plan the denoiser would have to run them.
    """
    if dropped := dropped_layers(target):
        raise PlanError(f"remove_plan: {len(dropped)} layers were dropped from this pipeline; load it whole")
    take_off(target)


def take_off(target: DiffusionPipeline | nn.Module) -> None:
    if patch := patch_of(target):
        patch.remove()


def load_pipeline(
    folder_or_hub_id: str | os.PathLike,
    compile: bool | str | Callable | Mapping[str, Any] = False,
    **arguments: Any,
) -> DiffusionPipeline:
    """The pipeline of a folder or hub repository with its plan applied.

    arguments: those of DiffusionPipeline.from_pretrained (dtype, revision, token, ...); dtype is float32 unless given,
    since transformers would keep a text encoder's stored half precision beside it. compile: as in apply_plan.
    Raises PlanError where there is no plan.json, or where it was made for other weights; BadInput for weights
    that are missing, damaged or not finite.
    """
    plan = load_plan(folder_or_hub_id, {key: arguments[key] for key in HUB_ARGUMENTS if key in arguments})
    if "torch_dtype" not in arguments:  # the older name of dtype
        arguments.setdefault("dtype", torch.float32)
    with no_word_of_missing_weights() if plan.dropped_layers else nullcontext():
        try:
            pipe = DiffusionPipeline.from_pretrained(folder_or_hub_id, **arguments)
        except WEIGHT_ERRORS as error:
            raise BadInput(f"{folder_or_hub_id}: {one_line(error)}") from error
    fitted(plan, denoiser_of(pipe), folder_or_hub_id)
    drop_layers(pipe, plan.dropped_layers)  # from_pretrained left them without values
    check_weights(pipe, Path(folder_or_hub_id), str(folder_or_hub_id))
    apply_plan(pipe, plan, compile=compile)
    return pipe


def warm_up(pipe: DiffusionPipeline, *arguments: Any, **keywords: Any) -> None:
    """Run every expert in use once on the inputs that `pipe(*arguments, **keywords)` would have, with a progress bar.

    A compiled pipeline compiles nothing afterwards, whatever the prompt, the seed and the number of steps; another
    batch size, resolution, guidance (on or off) or scheduler with another type of timestep wants its own warm-up.

        apply_plan(pipe, compile=True)
        warm_up(pipe, "any prompt", height=768, width=768)

    Raises PlanError where no plan is applied.
    """
    patch = patch_of(pipe)
    if patch is None:
        raise PlanError("warm_up: no plan is applied (apply_plan, load_pipeline)")
    replays = patch.graphs is not None and patch.graphs.compilation.cuda_graphs
    patch.rehearsals = 3 if replays else 1  # a CUDA graph is run, recorded, and then replayed
    try:
        pipe(*arguments, **{"num_inference_steps": 1, **keywords})
    finally:
        patch.rehearsals = 0
