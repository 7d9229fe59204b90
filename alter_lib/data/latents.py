"""Training batches: VAE latents and text embeddings, cached or made on the fly; random numbers derive from (seed,
sample, epoch)."""

from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline

from ..params import Data
from . import emoji

DERIVED = 2**63 - 25  # seeds are mixed modulo a prime


@dataclass(frozen=True)
class Batch:
    """latents, noise [B, C, h, w]; text [B, tokens, D]; timesteps [B] on the CPU (routes are looked up there)."""

    latents: torch.Tensor
    noise: torch.Tensor
    text: torch.Tensor
    timesteps: torch.Tensor


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded from a tuple of integers, the same on every machine."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 1) % DERIVED
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def encode_images(pipeline: StableDiffusionPipeline, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the latents [N, C, h, w], scaled as the denoiser expects; images uint8 [N, H, W, 3]."""
    vae = pipeline.vae
    posteriors = [
        vae.encode((chunk.permute(0, 3, 1, 2) / 127.5 - 1).to(vae.device, vae.dtype)).latent_dist
        for chunk in images.split(64)
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


class EmojiBatches:
    """Batches of the emoji's training split; `batch(step)` depends on (seed, step) alone, so a resumed run repeats it.

    An epoch is one seeded permutation. A sample's caption, posterior noise, noise and timestep come from (seed, index,
    epoch): the batch is the same however it is sharded over processes. Latents and text are encoded once, or batch by
    batch where `data.cache_latents` or `data.cache_text` is false: slower, without the memory of the caches.
    """

    def __init__(self, pipeline: StableDiffusionPipeline, data: Data, batch_size: int, seed: int) -> None:
        images, rows = emoji.load("train")
        self.pipeline, self.images = pipeline, torch.from_numpy(images[: data.limit])
        self.captions = [emoji.captions(row, data.keywords) for row in rows[: data.limit]]
        self.posteriors = encode_images(pipeline, self.images) if data.cache_latents else None
        self.states = None
        if data.cache_text:
            flat = ["", *dict.fromkeys(caption for row in self.captions for caption in row)]
            self.states = dict(zip(flat, encode_text(pipeline, flat), strict=True))
        self.dropout, self.batch_size, self.seed = data.caption_dropout, batch_size, seed
        self.num_timesteps = pipeline.scheduler.config.num_train_timesteps

    def __len__(self) -> int:
        return len(self.images)

    def latents(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the posteriors of some images [n, C, h, w]."""
        if self.posteriors is None:
            return encode_images(self.pipeline, self.images[indices])
        return tuple(part[indices] for part in self.posteriors)

    def text(self, captions: list[str]) -> torch.Tensor:
        """Text encoder states [n, tokens, D]."""
        if self.states is None:
            return encode_text(self.pipeline, captions)
        return torch.stack([self.states[caption] for caption in captions])

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """The share of process `rank` of step's batch; steps count from 0 and run through epoch after epoch."""
        first = step * self.batch_size
        places = [divmod(i, len(self)) for i in range(first + rank, first + self.batch_size, world_size)]
        indices = [int(self.permutation(epoch)[place]) for epoch, place in places]
        mean, std = self.latents(indices)
        posterior_noise, noise, timesteps, captions = zip(
            *(self.draw(index, epoch, mean.shape[1:]) for index, (epoch, _) in zip(indices, places, strict=True)),
            strict=True,
        )
        latents = mean + std * torch.stack(posterior_noise)
        return Batch(latents, torch.stack(noise), self.text(list(captions)), torch.tensor(timesteps))

    def draw(self, index: int, epoch: int, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor, int, str]:
        """All that is random about one sample: posterior noise, noise, timestep and caption ("": dropped)."""
        random = generator(self.seed, index, epoch)
        posterior_noise, noise = torch.randn(shape, generator=random), torch.randn(shape, generator=random)
        timestep = int(torch.randint(self.num_timesteps, (), generator=random))
        caption = self.captions[index][int(torch.randint(len(self.captions[index]), (), generator=random))]
        dropped = torch.rand((), generator=random) < self.dropout
        return posterior_noise, noise, timestep, "" if dropped else caption

    def permutation(self, epoch: int) -> torch.Tensor:
        if getattr(self, "_epoch", None) != epoch:  # one permutation is kept: batches ask for it sample by sample
            self._epoch, self._order = epoch, torch.randperm(len(self), generator=generator(self.seed, epoch))
        return self._order
