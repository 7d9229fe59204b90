"""Resizing of whole images before a metric: Pillow's antialiased filters, both sides at once (paper §4.1: 768 to 256).

A picture that is not square is squashed, not cropped: so do APTP's scripts, whose protocol the paper follows.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

FILTERS = {name: Image.Resampling[name.upper()] for name in ("bicubic", "bilinear", "lanczos", "box")}
WORKERS = 4  # threads that decode and resize: Pillow lets go of the interpreter meanwhile


def resized(images: np.ndarray, size: int | None, method: str = "bicubic") -> np.ndarray:
    """uint8 [N, H, W, 3] at `size` x `size` px; None, or the size that they have: as they are."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    return np.stack([squashed(Image.fromarray(image), size, method) for image in images])


def squashed(image: Image.Image, size: int | None, method: str) -> np.ndarray:
    """uint8 [size, size, 3] of a picture of any mode."""
    image = image.convert("RGB")
    return np.asarray(image.resize((size, size), FILTERS[method]) if size and image.size != (size, size) else image)


def read_files(files: Sequence[Path], size: int | None, method: str, batch_size: int) -> Iterator[np.ndarray]:
    """Batches uint8 [n, size, size, 3] of image files, in order."""

    def read(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            return squashed(image, size, method)

    with ThreadPoolExecutor(WORKERS) as pool:
        for first in range(0, len(files), batch_size):
            yield np.stack(list(pool.map(read, files[first : first + batch_size])))


def describe(size: int | None, method: str) -> str:
    """For a result's `resize` field."""
    return "none" if size is None else f"{method} to {size} px"
