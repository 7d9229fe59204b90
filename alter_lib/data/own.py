"""Sources of one's own in training: latents from a cache folder, or from pictures that are encoded on the fly."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from diffusers import DiffusionPipeline

from ..params import Data
from .cache_files import Cache
from .conditions import CachedTextConditions, ClassConditions, TextConditions
from .encode import encode_images, resolution_of
from .pictures import View
from .records import Source
from .settings import check_for_training, num_classes
from .sources import at_hand, open_source
from .transforms import decode, square


class CachedLatents:
    """A cache folder, memory-mapped."""

    def __init__(self, cache: Cache) -> None:
        self.cache, self.sizes = cache, cache.sizes

    def latents(self, views: Sequence[View]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the posteriors [n, C, h, w], float32."""
        return tuple(
            torch.stack([self.cache.latents(v.index, name + "_flip" * v.flip) for v in views]).float()
            for name in ("mean", "std")
        )

    def prefetch(self, views: Sequence[View]) -> None:
        """Nothing to wait for: the operating system reads ahead."""


class FreshLatents:
    """Pictures read and decoded by `workers` threads, a step ahead, and encoded in the training process."""

    def __init__(
        self, pipeline: DiffusionPipeline, source: Source, cache: Cache, resolution: int, workers: int
    ) -> None:
        self.pipeline, self.source, self.cache, self.resolution = pipeline, source, cache, resolution
        self.sizes, self.pool = cache.sizes, ThreadPoolExecutor(workers)
        self.waiting: dict[View, Future] = {}

    def picture(self, view: View) -> np.ndarray:
        """uint8 [resolution, resolution, 3]."""
        row, shard = self.cache.index[view.index], self.cache.locate(view.index)[0]
        image = decode(self.source.image(shard, (row["start"], row["length"])))
        pixels = square(image, self.resolution, view.centering)
        return pixels[:, ::-1] if view.flip else pixels

    def latents(self, views: Sequence[View]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the posteriors [n, C, h, w], float32."""
        futures = [self.waiting.get(view) or self.pool.submit(self.picture, view) for view in views]
        return encode_images(self.pipeline, torch.from_numpy(np.stack([future.result() for future in futures])))

    def prefetch(self, views: Sequence[View]) -> None:
        """Begin with the pictures of the next step."""
        self.waiting = {view: self.pool.submit(self.picture, view) for view in views}


def open_own(
    pipeline: DiffusionPipeline, data: Data
) -> tuple[CachedLatents | FreshLatents, TextConditions | CachedTextConditions | ClassConditions]:
    """Latents and conditions of a source that has a cache folder. With cached latents the pictures themselves need not
    be there; where they are, they must be those that the cache was made from.

    Raises ParamsError where the cache is missing, unfinished or stale, or the source can't be opened.
    """
    classes = num_classes(pipeline)
    source = open_source(data, classes is not None) if not data.cache_latents or at_hand(data) else None
    cache = Cache(check_for_training(pipeline, data, source and source.digest), data.limit)
    if data.cache_latents:
        latents = CachedLatents(cache)
    else:
        latents = FreshLatents(pipeline, source, cache, resolution_of(pipeline, data.resolution), data.workers)
    if classes is not None:
        return latents, ClassConditions(cache.column("label"), classes)
    if data.cache_text:
        return latents, CachedTextConditions(pipeline, cache.column("num_captions"), cache.text)
    return latents, TextConditions(pipeline, cache.index["captions"], cache=False)
