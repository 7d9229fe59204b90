"""Dropping the layers that no expert runs: their weights leave memory and the saved pipeline, for good."""

from collections.abc import Sequence

from diffusers import DiffusionPipeline
from torch import nn

from ..backbones import ADAPTERS, denoiser_of
from ..plan import ExpertPlan
from ..plan.file import PlanError
from .patching import patch_of

ATTRIBUTE = "_alter_dropped_layers"


def unused_layers(plan: ExpertPlan) -> tuple[str, ...]:
    """Names of the layers that no expert with a timestep to serve runs, in execution order."""
    used = plan.masks[plan.routing.unique()].any(0).tolist()
    return tuple(name for name, runs in zip(plan.layer_names, used, strict=True) if not runs)


def dropped_layers(target: DiffusionPipeline | nn.Module) -> tuple[str, ...]:
    """Names of the layers that a denoiser no longer has."""
    return vars(denoiser_of(target)).get(ATTRIBUTE, ())


def drop_layers(target: DiffusionPipeline | nn.Module, names: Sequence[str]) -> None:
    """Empty these prunable layers. What others read inside them stays: DiT's output head uses block 0's embedder.

    Raises PlanError for a layer that is not there.
    """
    denoiser = denoiser_of(target)
    adapter = ADAPTERS[type(denoiser).__name__]
    layers = {name: module for name, _, module in adapter.prunable_layers(denoiser)}
    if unknown := [name for name in names if name not in layers]:
        raise PlanError(f"dropped_layers: {unknown[0]} is no prunable layer of {type(denoiser).__name__}")
    for name in names:
        empty(layers[name], name, adapter.read_from_outside())
    have = set(dropped_layers(denoiser)) | set(names)
    setattr(denoiser, ATTRIBUTE, tuple(name for name in layers if name in have))
    if patch := patch_of(denoiser):
        patch.let_go()


def empty(module: nn.Module, path: str, kept: Sequence[str]) -> None:
    """Remove all children of the module at `path` but those whose paths are in `kept`, and what leads to them."""
    for name, child in list(module.named_children()):
        inside = f"{path}.{name}"
        if any(each.startswith(f"{inside}.") for each in kept):
            empty(child, inside, kept)
        elif inside not in kept:
            delattr(module, name)


def check_layers_are_there(plan: ExpertPlan, target: DiffusionPipeline | nn.Module) -> None:
    """Raises PlanError where an expert runs a layer whose weights were dropped."""
    if wanted := set(dropped_layers(target)) - set(unused_layers(plan)):
        first = next(name for name in plan.layer_names if name in wanted)
        raise PlanError(f"experts: {first} runs, but its weights were dropped from this pipeline; load it whole")
