"""Deploying a plan: on a stock diffusers pipeline and off again, saved and loaded together with its weights.

pipe = load_pipeline("runs/tiny_sd/alter")      # weights and plan
images = pipe("red apple", num_inference_steps=20).images
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from torch import nn

from .backbones import ADAPTERS, denoiser_of
from .diagnosis import doctor
from .model_card import model_card
from .patching import Patch, patch_of
from .plan import ExpertPlan
from .plan_file import FILE_NAME, PlanError, write_text

__all__ = ["apply_plan", "doctor", "load_pipeline", "remove_plan", "save_pipeline"]

HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only", "force_download", "proxies")


def apply_plan(
    target: DiffusionPipeline | nn.Module,
    plan: ExpertPlan | str | os.PathLike | None = None,
    compile: bool | str | Callable = False,
) -> None:
    """Make a pipeline (or a bare denoiser) run each timestep's expert: the layers that it leaves out are not called.

    Everything else stays as it is: any scheduler and number of steps, callbacks, guidance, image-to-image, LoRA,
    offloading, mixed timesteps in one batch. A plan that is already applied is replaced.

    Args:
        plan: a plan, the path of one, or None for the plan.json beside the loaded weights.
        compile: True compiles one static graph for each distinct set of active layers on its first use (or names
            the backend of torch.compile); mixed timesteps in one batch run uncompiled.
    Raises PlanError where the plan is missing or made for another backbone; the pipeline is then left as it was.
    """
    denoiser, where = denoiser_of(target), "plan"
    if not isinstance(plan, ExpertPlan):
        plan, where = plan_beside(target, denoiser) if plan is None else (ExpertPlan.load(plan), plan)
    fitted(plan, denoiser, where)
    remove_plan(denoiser)
    backend = "inductor" if compile is True else compile or None
    Patch(denoiser, plan, None if isinstance(target, nn.Module) else target, backend)


def fitted(plan: ExpertPlan, denoiser: nn.Module, where: str | os.PathLike) -> ExpertPlan:
    """`plan` if it was made for `denoiser`; the PlanError says where it came from."""
    try:
        plan.validate(denoiser)
    except PlanError as error:
        raise PlanError(f"{where}: {error}") from None
    return plan


def remove_plan(target: DiffusionPipeline | nn.Module) -> None:
    """Take the plan off: outputs are those from before apply_plan, bit for bit. Without a plan nothing happens."""
    if patch := patch_of(target):
        patch.remove()


def save_pipeline(
    pipe: DiffusionPipeline, plan: ExpertPlan | None, folder: str | os.PathLike, **arguments: Any
) -> None:
    """Write weights, plan.json and a model card (README.md) to `folder`: an ordinary diffusers pipeline plus its plan.

    plan: None saves the applied one. arguments: those of DiffusionPipeline.save_pretrained. An interrupted save never
    leaves a folder that loads: model_index.json goes first and comes last.
    Raises PlanError where there is no plan or it was made for another backbone.
    """
    patch = patch_of(pipe)
    plan = plan or (patch and patch.plan)
    if plan is None:
        raise PlanError("plan: none given and none applied; without a plan the pipeline would run unpruned")
    fitted(plan, denoiser_of(pipe), "plan")
    folder = Path(folder)
    (folder / "model_index.json").unlink(missing_ok=True)
    plan.save(folder)
    write_text(folder / "README.md", model_card(pipe, plan, folder.name))
    denoiser = denoiser_of(pipe)
    adapter = ADAPTERS[type(denoiser).__name__]
    adapter.register_labels(pipe)
    with adapter.separate(denoiser):
        pipe.save_pretrained(folder, **arguments)


def load_pipeline(
    folder_or_hub_id: str | os.PathLike, compile: bool | str | Callable = False, **arguments: Any
) -> DiffusionPipeline:
    """The pipeline of a folder or hub repository with its plan applied.

    arguments: those of DiffusionPipeline.from_pretrained (dtype, revision, token, ...); dtype is float32 unless given,
    since transformers would keep a text encoder's stored half precision beside it. compile: as in apply_plan.
    Raises PlanError where there is no plan.json, or where it was made for other weights.
    """
    plan = load_plan(folder_or_hub_id, {key: arguments[key] for key in HUB_ARGUMENTS if key in arguments})
    if "torch_dtype" not in arguments:  # the older name of dtype
        arguments.setdefault("dtype", torch.float32)
    pipe = DiffusionPipeline.from_pretrained(folder_or_hub_id, **arguments)
    apply_plan(pipe, fitted(plan, denoiser_of(pipe), folder_or_hub_id), compile=compile)
    return pipe


def load_plan(source: str | os.PathLike, hub_arguments: dict[str, Any]) -> ExpertPlan:
    """The plan of a folder or a hub repository: fetched by name, since a pipeline's download knows nothing of it."""
    source = str(source)
    if Path(source).is_dir():
        return ExpertPlan.load(source)
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise PlanError(f"{source}: no such folder, nor a hub id (owner/name)")
    try:
        return ExpertPlan.load(hf_hub_download(source, FILE_NAME, **hub_arguments))
    except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PlanError(
            f"{source}: no {FILE_NAME} from the hub, without it the pipeline runs unpruned: {reason}"
        ) from error


def plan_beside(target: DiffusionPipeline | nn.Module, denoiser: nn.Module) -> tuple[ExpertPlan, str]:
    """The plan.json beside the weights that `target` was loaded from, and where that is."""
    source = target.config.get("_name_or_path") or denoiser.config.get("_name_or_path")
    if not source:
        raise PlanError("plan: none given, and the pipeline was not loaded from a folder or the hub")
    folder = Path(source)
    if folder.is_dir() and not (folder / FILE_NAME).exists() and (folder.parent / FILE_NAME).exists():
        source = str(folder.parent)  # a bare denoiser remembers its own subfolder
    return load_plan(source, {}), source
