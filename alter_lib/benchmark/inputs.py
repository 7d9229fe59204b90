"""Random inputs of a training step, as `Trainer` takes batches: cached, or encoded anew on the device."""

from dataclasses import dataclass

import torch

from ..backbones.timing import random_inputs
from ..data.encode import vae_factor
from ..data.latents import Batch
from ..training.trainer import Trainer


@dataclass
class Inputs:
    """Random inputs of one step: cached ones, or images and tokens that are encoded on the device, as the authors do.

    images [B, 3, H, W]; tokens [B, n], None for class labels.
    """

    trainer: Trainer
    cached: Batch
    images: torch.Tensor
    tokens: torch.Tensor | None
    encode: bool = False

    @classmethod
    def random(cls, trainer: Trainer, batch_size: int) -> "Inputs":
        backbone, pipeline = trainer.backbone, trainer.backbone.pipeline
        latents, _, condition = random_inputs(pipeline, backbone.resolution, batch_size)
        timesteps = torch.randint(backbone.num_train_timesteps, (batch_size,))
        size = [side * vae_factor(pipeline) for side in backbone.resolution]
        tokens = torch.randint(1000, condition.shape[:2]) if condition.ndim == 3 else None
        cached = Batch(latents.cpu(), torch.randn(latents.shape), condition.cpu(), timesteps)
        return cls(trainer, cached, torch.rand(batch_size, 3, *size) * 2 - 1, tokens)

    def batch(self, _step: int, _rank: int = 0, _world_size: int = 1) -> Batch:
        """In place of `Batches.batch`."""
        return self.encoded() if self.encode else self.cached

    @torch.no_grad()
    def encoded(self) -> Batch:
        pipeline, device = self.trainer.backbone.pipeline, self.trainer.device
        images = self.images.to(device, pipeline.vae.dtype)
        latents = pipeline.vae.encode(images).latent_dist.sample() * pipeline.vae.config.scaling_factor
        condition = self.cached.condition
        if self.tokens is not None:
            condition = pipeline.text_encoder(self.tokens.to(device)).last_hidden_state
        return Batch(latents, self.cached.noise, condition, self.cached.timesteps)
