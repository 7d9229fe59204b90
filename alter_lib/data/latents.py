"""Training batches: VAE latents and conditions, cached or made on the fly; random numbers derive from (seed, sample,
epoch)."""

from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from ..params import Data, ParamsError
from . import emoji, fashion

DERIVED = 2**63 - 25  # seeds are mixed modulo a prime


@dataclass(frozen=True)
class Batch:
    """latents, noise [B, C, h, w]; condition: text states [B, tokens, D] or class labels [B]; timesteps [B] on the CPU
    (routes are looked up there)."""

    latents: torch.Tensor
    noise: torch.Tensor
    condition: torch.Tensor
    timesteps: torch.Tensor


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded from a tuple of integers, the same on every machine."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 1) % DERIVED
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def encode_images(pipeline: DiffusionPipeline, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
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


class TextConditions:
    """Captions of each image, their states from the pipeline's text encoder; the dropped condition is ""."""

    def __init__(self, pipeline: StableDiffusionPipeline, captions: list[list[str]], cache: bool) -> None:
        self.pipeline, self.captions, self.states = pipeline, captions, None
        if cache:
            flat = ["", *dict.fromkeys(caption for row in captions for caption in row)]
            self.states = dict(zip(flat, encode_text(pipeline, flat), strict=True))

    def draw(self, index: int, dropout: float, random: torch.Generator) -> str:
        """One of the image's captions, or "" in a `dropout` share of the draws."""
        caption = self.captions[index][int(torch.randint(len(self.captions[index]), (), generator=random))]
        return "" if torch.rand((), generator=random) < dropout else caption

    def encode(self, captions: list[str]) -> torch.Tensor:
        """[n, tokens, D]."""
        if self.states is None:
            return encode_text(self.pipeline, captions)
        return torch.stack([self.states[caption] for caption in captions])


class ClassConditions:
    """The class label of each image; the dropped condition is the label after the last one (DiT-XL/2: 1000)."""

    def __init__(self, labels: list[int], null: int) -> None:
        self.labels, self.null = labels, null

    def draw(self, index: int, dropout: float, random: torch.Generator) -> int:
        """The image's label, or the null label in a `dropout` share of the draws."""
        return self.null if torch.rand((), generator=random) < dropout else self.labels[index]

    def encode(self, labels: list[int]) -> torch.Tensor:
        """[n], int64."""
        return torch.tensor(labels)


def load_images(pipeline: DiffusionPipeline, data: Data) -> tuple[torch.Tensor, TextConditions | ClassConditions]:
    """Training images [N, H, W, 3] uint8 of `data.source` and their conditions.

    Raises ParamsError where the source has captions and the denoiser wants class labels, or the other way round.
    """
    has_classes = hasattr(pipeline, "transformer")
    if has_classes != (data.source == "fashion"):
        wants = "class labels (source: fashion)" if has_classes else "captions (source: emoji)"
        raise ParamsError([f"data.source: {data.source} does not go with this backbone, which wants {wants}"])
    if has_classes:
        images, labels = fashion.load("train")
        null = pipeline.transformer.config.num_embeds_ada_norm
        conditions = ClassConditions(labels[: data.limit].tolist(), null)
    else:
        images, rows = emoji.load("train")
        captions = [emoji.captions(row, data.keywords) for row in rows[: data.limit]]
        conditions = TextConditions(pipeline, captions, data.cache_text)
    return torch.from_numpy(images[: data.limit]), conditions


class Batches:
    """Batches of the training images; `batch(step)` depends on (seed, step) alone, so a resumed run repeats it.

    An epoch is one seeded permutation. A sample's condition, posterior noise, noise and timestep come from (seed,
    index, epoch): the batch is the same however it is sharded over processes. Latents and text are encoded once, or
    batch by batch where `data.cache_latents` or `data.cache_text` is false: slower, without the memory of the caches.
    """

    def __init__(self, pipeline: DiffusionPipeline, data: Data, batch_size: int, seed: int) -> None:
        self.pipeline = pipeline
        self.images, self.conditions = load_images(pipeline, data)
        self.posteriors = encode_images(pipeline, self.images) if data.cache_latents else None
        self.dropout, self.batch_size, self.seed = data.caption_dropout, batch_size, seed
        self.num_timesteps = pipeline.scheduler.config.num_train_timesteps

    def __len__(self) -> int:
        return len(self.images)

    def latents(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the posteriors of some images [n, C, h, w]."""
        if self.posteriors is None:
            return encode_images(self.pipeline, self.images[indices])
        return tuple(part[indices] for part in self.posteriors)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """The share of process `rank` of step's batch; steps count from 0 and run through epoch after epoch."""
        first = step * self.batch_size
        places = [divmod(i, len(self)) for i in range(first + rank, first + self.batch_size, world_size)]
        indices = [int(self.permutation(epoch)[place]) for epoch, place in places]
        mean, std = self.latents(indices)
        posterior_noise, noise, timesteps, conditions = zip(
            *(self.draw(index, epoch, mean.shape[1:]) for index, (epoch, _) in zip(indices, places, strict=True)),
            strict=True,
        )
        latents = mean + std * torch.stack(posterior_noise)
        return Batch(latents, torch.stack(noise), self.conditions.encode(list(conditions)), torch.tensor(timesteps))

    def draw(self, index: int, epoch: int, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor, int, str | int]:
        """All that is random about one sample: posterior noise, noise, timestep, condition."""
        random = generator(self.seed, index, epoch)
        posterior_noise, noise = torch.randn(shape, generator=random), torch.randn(shape, generator=random)
        timestep = int(torch.randint(self.num_timesteps, (), generator=random))
        return posterior_noise, noise, timestep, self.conditions.draw(index, self.dropout, random)

    def permutation(self, epoch: int) -> torch.Tensor:
        if getattr(self, "_epoch", None) != epoch:  # one permutation is kept: batches ask for it sample by sample
            self._epoch, self._order = epoch, torch.randperm(len(self), generator=generator(self.seed, epoch))
        return self._order
