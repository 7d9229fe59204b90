"""The pictures of a training step, and the latents of those that are embedded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

from .encode import encode_images


@dataclass(frozen=True)
class View:
    """One picture of a batch: sample, whether it is mirrored, and where its crop lies (0..1 in x and y)."""

    index: int
    flip: bool = False
    centering: tuple[float, float] = (0.5, 0.5)


class MemoryLatents:
    """An embedded source: images uint8 [N, H, W, 3], encoded at once where `cache`, else batch by batch."""

    def __init__(self, pipeline: DiffusionPipeline, images: torch.Tensor, cache: bool) -> None:
        self.pipeline, self.images, self.sizes = pipeline, images, [len(images)]
        self.posteriors = encode_images(pipeline, images) if cache else None

    def latents(self, views: Sequence[View]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the posteriors [n, C, h, w], float32."""
        indices = [view.index for view in views]
        if self.posteriors is None:
            return encode_images(self.pipeline, self.images[indices])
        return tuple(part[indices] for part in self.posteriors)

    def prefetch(self, views: Sequence[View]) -> None:
        """Nothing to wait for."""
