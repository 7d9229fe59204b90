"""What the make_*.py scripts of tiny_dit share: the pictures, where training state is kept, PSNR."""

import os
from pathlib import Path

import torch

from alter_lib.data import fashion

STATE = Path(__file__).parents[2] / "runs" / "make_tiny_dit"  # optimizer states: not committed


def pictures(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [N, 3, 32, 32] in [-1, 1] and their class labels [N]; split: train | test."""
    images, labels = fashion.load(split)
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.from_numpy(labels)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio in dB, for values in [-1, 1]."""
    return (10 * torch.log10(4 / (a - b).square().flatten(1).mean(1))).mean().item()


def atomic_save(state: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)
