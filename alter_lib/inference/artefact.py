"""The artefact: a diffusers pipeline folder and its plan, saved and loaded together."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.utils import logging
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from torch import nn

from ..backbones import ADAPTERS, denoiser_of
from ..common.files import whole_files, write_text
from ..plan import ExpertPlan
from ..plan.file import FILE_NAME, PlanError
from .compaction import check_layers_are_there, dropped_layers
from .model_card import model_card
from .patching import patch_of

HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only", "force_download", "proxies")


def fitted(plan: ExpertPlan, denoiser: nn.Module, where: str | os.PathLike) -> ExpertPlan:
    """`plan` if it was made for `denoiser`; the PlanError says where it came from."""
    try:
        plan.validate(denoiser)
    except PlanError as error:
        raise PlanError(f"{where}: {error}") from None
    return plan


def save_pipeline(
    pipe: DiffusionPipeline, plan: ExpertPlan | None, folder: str | os.PathLike, **arguments: Any
) -> None:
    """Write weights, plan.json and a model card (README.md) to `folder`: an ordinary diffusers pipeline plus its plan.

    plan: None saves the applied one. arguments: those of DiffusionPipeline.save_pretrained. An interrupted save leaves
    what was there before, or a folder that does not load: model_index.json goes first and comes last.
    Raises PlanError where there is no plan or it was made for another backbone, OSError where the disk is full.
    """
    patch, denoiser = patch_of(pipe), denoiser_of(pipe)
    plan = plan or (patch and patch.plan)
    if plan is None:
        raise PlanError("plan: none given and none applied; without a plan the pipeline would run unpruned")
    fitted(plan, denoiser, "plan")
    check_layers_are_there(plan, denoiser)
    plan = replace(plan, dropped_layers=dropped_layers(denoiser))
    folder = Path(folder)
    adapter = ADAPTERS[type(denoiser).__name__]
    adapter.register_labels(pipe)
    with (
        whole_files(folder, last="model_index.json") as partial,
        adapter.separate(denoiser),
        patch.layout.without_fused_weights() if patch else nullcontext(),
    ):
        plan.save(partial)
        write_text(partial / "README.md", model_card(pipe, plan, folder.name))
        pipe.save_pretrained(partial, **{"repo_id": folder.name, **arguments})
        forget_local_sources(partial)


def forget_local_sources(folder: Path) -> None:
    """diffusers notes in each config where a part was loaded from: a hub id serves others, a folder of this machine
    does not."""
    for file in folder.rglob("*.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        if os.path.isabs(config.get("_name_or_path") or ""):
            del config["_name_or_path"]
            write_text(file, json.dumps(config, indent=2, sort_keys=True) + "\n")


@contextmanager
def no_word_of_missing_weights() -> Iterator[None]:
    """diffusers would list the dropped layers as newly initialized and advise to train them."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


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
