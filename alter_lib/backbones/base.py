"""Backbone: a diffusers pipeline seen as fixed parts plus prunable layers with their costs."""

import math
from dataclasses import dataclass
from types import ModuleType

import torch
from diffusers import DiffusionPipeline
from torch import nn

from ..params import ParamsError
from ..plan.costs import CostTable
from . import dit, unet
from .architecture import architecture_hash
from .macs import CONVENTIONS, WITH_ATTENTION, count_macs

ADAPTERS = {"UNet2DConditionModel": unet, "DiTTransformer2DModel": dit}
TIMESTEP_EMBEDDINGS = ("embedded", "sinusoidal", "slow_cosines")


@dataclass(frozen=True)
class PrunableLayer:
    """name: module path in the denoiser; kind: resnet | transformer (UNet) or block (DiT); macs: at batch 1."""

    name: str
    kind: str
    macs: int
    module: nn.Module


@dataclass(frozen=True)
class Backbone:
    """theta and what it costs. `fixed_macs` are the MACs that no plan can save; resolution is the latent (h, w);
    latency: the table that budgets are counted in, None for MACs."""

    pipeline: DiffusionPipeline
    denoiser: nn.Module
    layers: tuple[PrunableLayer, ...]
    fixed_macs: int
    macs_convention: str
    resolution: tuple[int, int]
    latency: CostTable | None = None

    @property
    def total_macs(self) -> int:
        """MACs of one unpruned forward at batch 1."""
        return self.fixed_macs + sum(layer.macs for layer in self.layers)

    @property
    def num_train_timesteps(self) -> int:
        return self.pipeline.scheduler.config.num_train_timesteps

    @property
    def class_name(self) -> str:
        return type(self.denoiser).__name__

    @property
    def architecture_hash(self) -> str:
        return architecture_hash(self.denoiser)

    def timestep_embeddings(self, source: str = "embedded") -> torch.Tensor:
        """e_t for t = 0..T-1 as a frozen table [T, D_emb], float32: the router's input (paper §3.2).

        source: `embedded` (after the embedding MLP), `sinusoidal` (before it, as the authors' SD code) or
        `slow_cosines` (cos(pi k t / T), k = 0..15: neighbouring timesteps look alike, so that routes flicker less).
        """
        total = self.num_train_timesteps
        timesteps = torch.arange(total, device=self.denoiser.device)
        if source == "slow_cosines":
            phase = torch.arange(16, device=timesteps.device) * math.pi / total
            return torch.cos(phase * (timesteps[:, None] + 0.5))
        with torch.no_grad():
            return ADAPTERS[self.class_name].timestep_embeddings(self.denoiser, timesteps, source == "embedded").float()


def denoiser_of(target: DiffusionPipeline | nn.Module) -> nn.Module:
    """The denoiser of a pipeline, or `target` itself; without the wrapper of torch.compile."""
    if not isinstance(target, nn.Module):
        target = getattr(target, "unet", None) or target.transformer
    return getattr(target, "_orig_mod", target)


def adapter_of(denoiser: nn.Module) -> ModuleType:
    """What knows the layers of this kind of denoiser. Raises ParamsError for one that nothing knows."""
    name = type(denoiser).__name__
    if name not in ADAPTERS:
        raise ParamsError([f"backbone: {name} has no adapter; known: {', '.join(ADAPTERS)}"])
    return ADAPTERS[name]


def feature_points(denoiser: nn.Module, points: str | int = "all") -> list[nn.Module]:
    """The modules whose outputs L_featKD compares, in execution order (paper §3.3).

    points: `all` blocks (UNet: down, middle, up; DiT: every transformer block), the `middle` one alone (as the authors'
    DiT code), or the last block of each of that many equal groups. Raises ParamsError for more groups than blocks.
    """
    blocks = ADAPTERS[type(denoiser).__name__].feature_blocks(denoiser)
    if points == "middle":
        return [blocks[len(blocks) // 2]]
    groups = len(blocks) if points == "all" else points
    if groups > len(blocks):
        raise ParamsError([f"loss.feature_points: {groups} is not at most {len(blocks)}, the blocks of the denoiser"])
    return [blocks[(i + 1) * len(blocks) // groups - 1] for i in range(groups)]


def wrap(
    pipeline: DiffusionPipeline, convention: str = WITH_ATTENTION, resolution: tuple[int, int] | None = None
) -> Backbone:
    """The Backbone around a loaded pipeline. Raises ParamsError for an unknown denoiser or MAC convention."""
    denoiser = denoiser_of(pipeline)
    adapter, size = adapter_of(denoiser), denoiser.config.sample_size
    if convention not in CONVENTIONS:
        raise ParamsError([f"cost.convention: {convention!r} is not one of {', '.join(CONVENTIONS)}"])
    resolution = tuple(resolution or (size if isinstance(size, (list, tuple)) else (size, size)))
    tokenizer = getattr(pipeline, "tokenizer", None)
    with torch.device("meta"):
        copy = type(denoiser).from_config(denoiser.config)
    macs = count_macs(
        copy,
        adapter.example_inputs(copy, resolution, tokenizer.model_max_length if tokenizer else 77, "meta"),
        convention,
    )
    layers = tuple(
        PrunableLayer(path, kind, macs[path], module) for path, kind, module in adapter.prunable_layers(denoiser)
    )
    return Backbone(pipeline, denoiser, layers, macs[""] - sum(layer.macs for layer in layers), convention, resolution)
