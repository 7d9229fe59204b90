"""The embedded class-conditional data set: a subset of Fashion-MNIST (assets/fashion)."""

import numpy as np

from ..assets import verified
from ..params import ROOT

FOLDER = ROOT / "assets" / "fashion"
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def load(split: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 32, 32, 3] uint8, padded from 28 px and grey in three channels, and labels [N] int64 of CLASSES.

    split: `train`, `test` (from the data set's own test split) or None for all.
    """
    with np.load(verified(FOLDER / "fashion.npz")) as file:
        keep = np.isin(file["split"], ["train", "test"] if split is None else [split])
        images, labels = file["images"][keep], file["labels"][keep].astype(np.int64)
    return np.repeat(np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None], 3, axis=-1), labels
