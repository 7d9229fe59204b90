"""Frozen encoders of a pipeline: pictures to latents, captions to text states."""

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from ..params import ParamsError

CHUNK_PIXELS = 2**22  # of the pictures that the VAE encodes at once: 16 of 512 px


@torch.no_grad()
def encode_images(pipeline: DiffusionPipeline, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the latents [N, C, h, w], scaled as the denoiser expects; images uint8 [N, H, W, 3]."""
    vae, chunk = pipeline.vae, min(64, max(1, CHUNK_PIXELS // (images.shape[1] * images.shape[2])))
    posteriors = [
        vae.encode((part.permute(0, 3, 1, 2) / 127.5 - 1).to(vae.device, vae.dtype)).latent_dist
        for part in images.split(chunk)
    ]
    return tuple(
        torch.cat([getattr(p, name) for p in posteriors]).cpu().float() * vae.config.scaling_factor
        for name in ("mean", "std")
    )


@torch.no_grad()
def encode_text(pipeline: StableDiffusionPipeline, captions: list[str]) -> torch.Tensor:
    """Text encoder states [N, tokens, D]; a caption that is longer than the encoder's context is cut off."""
    tokens = pipeline.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    encoder = pipeline.text_encoder
    return torch.cat([encoder(chunk.to(encoder.device)).last_hidden_state.cpu() for chunk in tokens.split(256)])


def vae_factor(pipeline: DiffusionPipeline) -> int:
    """Pixels of a picture for one of its latent, in each direction."""
    return 2 ** (len(pipeline.vae.config.block_out_channels) - 1)


def resolution_of(pipeline: DiffusionPipeline, resolution: int | None) -> int:
    """`data.resolution` in px; None: what the denoiser was made for. ParamsError where it does not fit the VAE."""
    factor = vae_factor(pipeline)
    if resolution is None:
        return (getattr(pipeline, "unet", None) or pipeline.transformer).config.sample_size * factor
    if resolution % factor:
        raise ParamsError([f"data.resolution: {resolution} is not a multiple of {factor}, the factor of the VAE"])
    return resolution
