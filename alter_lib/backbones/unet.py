"""Adapter of UNet2DConditionModel (Stable Diffusion): its prunable layers, feature blocks and timestep embedding."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

RESNET, TRANSFORMER = "resnet", "transformer"


def execution_order(unet: UNet2DConditionModel) -> Iterator[tuple[str, nn.Module]]:
    """Residual layers and transformer modules as the forward pass meets them; names are module paths."""
    blocks = [(f"down_blocks.{i}", block) for i, block in enumerate(unet.down_blocks)]
    blocks += [("mid_block", unet.mid_block)] if unet.mid_block is not None else []
    blocks += [(f"up_blocks.{i}", block) for i, block in enumerate(unet.up_blocks)]
    for path, block in blocks:
        attentions = list(getattr(block, "attentions", []) or [])
        for i in range(max(len(block.resnets), len(attentions))):
            if path == "mid_block" and i > 0:  # the middle block runs resnet, (transformer, resnet), ...
                yield f"{path}.attentions.{i - 1}", attentions[i - 1]
            if i < len(block.resnets):
                yield f"{path}.resnets.{i}", block.resnets[i]
            if path != "mid_block" and i < len(attentions):
                yield f"{path}.attentions.{i}", attentions[i]


def prunable_layers(unet: UNet2DConditionModel) -> list[tuple[str, str, nn.Module]]:
    """(name, kind, module) of every layer that has an identity to fall back on (paper §3.1).

    A decoder residual layer reads concat(hidden, encoder skip); skipping it bypasses both, so it is prunable only
    where the hidden part already has as many channels as the output. SD2.1: 16 transformers + 18 of 22 resnets = 34.
    """
    layers, hidden_channels = [], unet.conv_in.out_channels
    for name, module in execution_order(unet):
        if not isinstance(module, ResnetBlock2D):
            layers.append((name, TRANSFORMER, module))
        elif hidden_channels == module.out_channels and module.upsample is None and module.downsample is None:
            layers.append((name, RESNET, module))
        hidden_channels = module.out_channels if isinstance(module, ResnetBlock2D) else hidden_channels
    return layers


def prepare(unet: UNet2DConditionModel, pretrained: bool) -> None:
    """Before training: a UNet shares nothing and drops nothing."""


def register_labels(pipe: StableDiffusionPipeline) -> None:
    """Before saving: a text-to-image pipeline has no class names."""


def separate(unet: UNet2DConditionModel) -> AbstractContextManager:
    """While saving: no weights are shared."""
    return nullcontext()


def read_from_outside() -> tuple[str, ...]:
    """Paths of the modules inside prunable layers that others read: none."""
    return ()


def feature_blocks(unet: UNet2DConditionModel) -> list[nn.Module]:
    """The modules whose outputs can be distilled (L_featKD, paper §3.3): each down, middle and up block."""
    return [*unet.down_blocks, unet.mid_block, *unet.up_blocks]


def example_inputs(unet: UNet2DConditionModel, resolution: tuple[int, int], text_tokens: int, device: str) -> dict:
    """Inputs of one batch-1 forward at a latent resolution (h, w)."""
    config = unet.config
    return {
        "sample": torch.zeros(1, config.in_channels, *resolution, device=device),
        "timestep": torch.zeros(1, device=device, dtype=torch.long),
        "encoder_hidden_states": torch.zeros(1, text_tokens, config.cross_attention_dim, device=device),
    }


def timestep_embeddings(unet: UNet2DConditionModel, timesteps: torch.Tensor, embedded: bool) -> torch.Tensor:
    """e_t [T, D_emb]: the sinusoid (SD2.1: 320) or what the embedding MLP makes of it (SD2.1: 1280)."""
    sinusoid = unet.time_proj(timesteps).to(unet.dtype)
    return unet.time_embedding(sinusoid) if embedded else sinusoid


def timestep_input(t: torch.Tensor, batch_size: int) -> torch.Tensor:
    """A scalar timestep as StableDiffusionPipeline passes it."""
    return t
