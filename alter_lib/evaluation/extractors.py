"""Networks that turn images into what a metric is computed from; each names itself, its weights and its resizing."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from tqdm.auto import tqdm

from .features import EXTRACTOR, AlexNetFeatures, channels_first
from .weights import state_hash


class Extractor(Protocol):
    """name: of network and layer; weights: hash; resize: what it does to an image before looking at it."""

    name: str
    weights: str
    resize: str

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Features float32 [n, ...] by name, of images uint8 [n, H, W, 3]."""


class Images(Protocol):
    """Images in order, batch by batch: uint8 [n, H, W, 3]."""

    def __len__(self) -> int: ...

    def batches(self, batch_size: int) -> Iterator[np.ndarray]: ...


def extract(extractor: Extractor, images: Images, desc: str, batch_size: int = 64) -> dict[str, np.ndarray]:
    """Features of all `images` by name, [N, ...]."""
    found: dict[str, np.ndarray] = {}  # allocated once: small arrays kept between a network's large ones pin the heap
    first = 0
    with tqdm(total=len(images), desc=f"{desc}, {extractor.name}", unit="image") as bar:
        for batch in images.batches(batch_size):
            for name, values in extractor(batch).items():
                if name not in found:
                    found[name] = np.empty((len(images), *values.shape[1:]), values.dtype)
                found[name][first : first + len(batch)] = values
            first += len(batch)
            bar.update(len(batch))
    return found


class AlexNet:
    """FID-AlexNet's extractor; its weights come with the repository."""

    name, resize = EXTRACTOR, "bilinear, antialiased, to 112 px"

    def __init__(self, device: torch.device | str) -> None:
        self.network = AlexNetFeatures().to(device)
        self.device, self.weights = device, state_hash(self.network)

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {"pool": self.network(channels_first(images).to(self.device)).cpu().numpy()}
