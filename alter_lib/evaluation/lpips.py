"""LPIPS (Zhang et al. 2018, arXiv 1801.03924) v0.1 on AlexNet: the network is the repository's, the linear heads are
those that torchmetrics carries; torchmetrics' own class would fetch AlexNet through torchvision.
"""

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torchmetrics.functional.image.lpips as torchmetrics_lpips
from torch import Tensor
from torch.nn.functional import normalize

from ..assets import sha256
from .features import alexnet, channels_first
from .weights import state_hash

HEADS = Path(torchmetrics_lpips.__file__).with_name("lpips_models") / "alex.pth"
LAYERS = (1, 4, 7, 9, 11)  # the five ReLUs
NAME = "LPIPS v0.1, AlexNet"


@lru_cache(maxsize=1)
def heads() -> tuple[Tensor, ...]:
    """Weight [C] of each channel, by layer."""
    state = torch.load(HEADS, "cpu", weights_only=True)
    return tuple(state[f"lin{i}.model.1.weight"].flatten() for i in range(len(LAYERS)))


@lru_cache(maxsize=1)
def weights() -> str:
    """Hash of network and heads."""
    return hashlib.sha256((state_hash(alexnet()) + sha256(HEADS)).encode()).hexdigest()[:16]


def layers(images: np.ndarray) -> list[Tensor]:
    """Outputs of the five ReLUs for uint8 images [n, H, W, 3], unit length over the channels."""
    network, kept = alexnet(), []
    x = (channels_first(images).float() / 127.5 - 1 - network.shift) / network.scale
    for i, layer in enumerate(network.features):
        x = layer(x)
        if i in LAYERS:
            kept.append(normalize(x, dim=1, eps=1e-10))
    return kept


@torch.no_grad()
def lpips(a: np.ndarray, b: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Distance of each pair of uint8 images [n, H, W, 3] at their own size, [n]."""
    found = []
    for first in range(0, len(a), batch_size):
        pairs = zip(layers(a[first : first + batch_size]), layers(b[first : first + batch_size]), heads(), strict=True)
        found.append(sum((torch.square(x - y).mean((2, 3)) @ head) for x, y, head in pairs))
    return torch.cat(found).double().numpy()
