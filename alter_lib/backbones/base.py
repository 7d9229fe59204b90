"""Backbone: a diffusers pipeline seen as fixed parts plus prunable layers with their costs."""

import math
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from torch import nn

from . import unet
from .architecture import architecture_hash
from .macs import CONVENTIONS, WITH_ATTENTION, count_macs

ADAPTERS = {"UNet2DConditionModel": unet}
TIMESTEP_EMBEDDINGS = ("embedded", "sinusoidal", "slow_cosines")


@dataclass(frozen=True)
class PrunableLayer:
    """name: module path in the denoiser; kind: resnet | transformer; macs: multiply-accumulates at batch 1."""

    name: str
    kind: str
    macs: int
    module: nn.Module


@dataclass(frozen=True)
class Backbone:
    """theta and what it costs. `fixed_macs` are the MACs that no plan can save; resolution is the latent (h, w)."""

    pipeline: DiffusionPipeline
    denoiser: nn.Module
    layers: tuple[PrunableLayer, ...]
    fixed_macs: int
    macs_convention: str
    resolution: tuple[int, int]

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

    @property
    def feature_blocks(self) -> list[nn.Module]:
        """The modules whose outputs L_featKD compares, in execution order."""
        return ADAPTERS[self.class_name].feature_blocks(self.denoiser)

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


def wrap(
    pipeline: DiffusionPipeline, convention: str = WITH_ATTENTION, resolution: tuple[int, int] | None = None
) -> Backbone:
    """The Backbone around a loaded pipeline. Raises ValueError for a denoiser or a MAC convention that is not known."""
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    name = type(denoiser).__name__
    if name not in ADAPTERS:
        raise ValueError(f"backbone: {name} has no adapter; known: {', '.join(ADAPTERS)}")
    if convention not in CONVENTIONS:
        raise ValueError(f"cost.convention: {convention!r} is not one of {', '.join(CONVENTIONS)}")
    adapter, size = ADAPTERS[name], denoiser.config.sample_size
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
