"""What the make_*.py scripts of tiny_sd share: the emoji, where training state is kept, PSNR."""

import json
import os
from pathlib import Path

import numpy as np
import torch

ASSETS = Path(__file__).parents[1]
STATE = ASSETS.parent / "runs" / "make_tiny_sd"  # optimizer states: not committed


def emoji(split: str) -> tuple[torch.Tensor, list[dict]]:
    """Images [N, 3, 32, 32] in [-1, 1] and their caption rows; split: train | test."""
    rows = json.loads((ASSETS / "emoji" / "captions.json").read_text())
    keep = [i for i, row in enumerate(rows) if row["split"] == split]
    images = np.load(ASSETS / "emoji" / "emoji.npz")["images"][keep]
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1, [rows[i] for i in keep]


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio in dB, for values in [-1, 1]."""
    return (10 * torch.log10(4 / (a - b).square().flatten(1).mean(1))).mean().item()


def atomic_save(state: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)
