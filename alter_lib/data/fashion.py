"""The class-conditional data set: a balanced subset of Fashion-MNIST (assets/fashion), at 32 px in three channels."""

import gzip
from pathlib import Path

import numpy as np

from ..assets import verified
from ..params import ROOT

FOLDER = ROOT / "assets" / "fashion"
CLASSES: tuple[str, ...] = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
SPLITS = {"train": "train", "test": "t10k"}  # split: how the source's files call it
PADDING = 2  # 28 -> 32 px, a size that the autoencoder halves twice


def load(split: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 32, 32, 3] (padded with zeros, grey repeated) and labels int64 [N], indices into CLASSES.

    split: `train` (10000), `test` (2000, of the source's test set) or None for both. Labels run 0, 1, ..., 9, 0, ...:
    any N in a row, N a multiple of ten, are balanced. Raises ValueError for another split.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"fashion.load: {split!r} is not one of {', '.join(SPLITS)}, None")
    with np.load(verified(FOLDER / "fashion.npz")) as file:
        keep = np.isin(file["split"], list(SPLITS) if split is None else split)
        return as_rgb(file["images"][keep]), file["labels"][keep].astype(np.int64)


def as_rgb(grey: np.ndarray) -> np.ndarray:
    """uint8 [N, 28, 28] -> uint8 [N, 32, 32, 3]."""
    padded = np.pad(grey, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))
    return np.repeat(padded[..., None], 3, axis=-1)


def read_source(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The whole of a split, uint8 [60000 or 10000, 28, 28] and labels uint8, from Fashion-MNIST's own idx files in
    `folder` (`train-images-idx3-ubyte.gz` and so on). For the scripts in assets/; raises FileNotFoundError.
    """
    images = gzip.decompress((folder / f"{SPLITS[split]}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{SPLITS[split]}-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)
