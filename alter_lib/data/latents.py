"""Training batches: VAE latents and conditions, cached or made on the fly; random numbers derive from (seed, sample,
epoch)."""

from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

from ..params import Data, ParamsError
from ..params.data import EMBEDDED
from . import emoji, fashion
from .conditions import ClassConditions, TextConditions
from .order import Order, generator
from .pictures import MemoryLatents, View


@dataclass(frozen=True)
class Batch:
    """latents, noise [B, C, h, w]; condition: text states [B, tokens, D] or class labels [B]; timesteps [B] on the CPU
    (routes are looked up there)."""

    latents: torch.Tensor
    noise: torch.Tensor
    condition: torch.Tensor
    timesteps: torch.Tensor


def open_embedded(pipeline: DiffusionPipeline, data: Data) -> tuple[MemoryLatents, TextConditions | ClassConditions]:
    """The emoji or fashion pictures and their captions or labels.

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
    return MemoryLatents(pipeline, torch.from_numpy(images[: data.limit]), data.cache_latents), conditions


class Batches:
    """Batches of the training samples; `batch(step)` depends on (seed, step) alone, so a resumed run repeats it.

    An epoch shows each sample once, in an order of its own. A sample's mirroring, crop, condition, posterior noise,
    noise and timestep come from (seed, index, epoch): the batch is the same however it is sharded over processes.
    Latents and text are encoded once, or batch by batch where `data.cache_latents` or `data.cache_text` is false:
    slower, without the memory (or, for a source of one's own, the disk) of the caches.
    """

    def __init__(self, pipeline: DiffusionPipeline, data: Data, batch_size: int, seed: int) -> None:
        if data.source in EMBEDDED:
            self.pictures, self.conditions = open_embedded(pipeline, data)
        else:
            from .own import open_own  # `datasets` takes seconds to import, which an embedded source need not wait for

            self.pictures, self.conditions = open_own(pipeline, data)
        self.order = Order(self.pictures.sizes, data.shuffle_buffer, seed)
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.num_timesteps = pipeline.scheduler.config.num_train_timesteps

    def __len__(self) -> int:
        return len(self.order)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """The share of process `rank` of step's batch; steps count from 0 and run through epoch after epoch."""
        places = self.places(step, rank, world_size)
        mean, std = self.pictures.latents([self.view(*place) for place in places])
        posterior_noise, noise, timesteps, conditions = zip(
            *(self.draw(index, epoch, mean.shape[1:]) for index, epoch in places), strict=True
        )
        self.pictures.prefetch([self.view(*place) for place in self.places(step + 1, rank, world_size)])
        latents = mean + std * torch.stack(posterior_noise)
        return Batch(latents, torch.stack(noise), self.conditions.encode(list(conditions)), torch.tensor(timesteps))

    def places(self, step: int, rank: int, world_size: int) -> list[tuple[int, int]]:
        """(index, epoch) of the samples of one process in one step."""
        first = step * self.batch_size
        return [self.order.at(place) for place in range(first + rank, first + self.batch_size, world_size)]

    def view(self, index: int, epoch: int) -> View:
        """How a sample is looked at in an epoch: mirrored or not, and where it is cropped."""
        random = generator(self.seed, index, epoch, 1)
        flip, x, y = torch.rand(3, generator=random).tolist()
        return View(index, self.data.flip and flip < 0.5, (x, y) if self.data.crop == "random" else (0.5, 0.5))

    def draw(self, index: int, epoch: int, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor, int, object]:
        """All else that is random about one sample: posterior noise, noise, timestep, condition."""
        random = generator(self.seed, index, epoch)
        posterior_noise, noise = torch.randn(shape, generator=random), torch.randn(shape, generator=random)
        timestep = int(torch.randint(self.num_timesteps, (), generator=random))
        return posterior_noise, noise, timestep, self.conditions.draw(index, self.data.caption_dropout, random)

    def permutation(self, epoch: int) -> torch.Tensor:
        """The order of the samples in an epoch, int64 [len]."""
        return self.order.permutation(epoch)
