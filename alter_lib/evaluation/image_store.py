"""Drawn images on disk, batch by batch: whole batches are there or are not, so that work that was killed goes on.

npz: one compressed shard a batch. png: one file an image, and one list a batch that is written last. A shard or list
that the disk damaged is removed with a line, and its batch drawn again.
"""

import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ..common.files import to_disk, whole
from .resizing import read_files, resized


@dataclass(frozen=True)
class ImageStore:
    """A folder of images by index. image_format: npz or png."""

    home: Path
    image_format: str = "npz"

    def present(self) -> set[int]:
        """Indices of all images of whole batches."""
        return set(self.batch_files())

    def batch_files(self) -> dict[int, Path]:
        """{index: the shard (npz) or list (png) that names it}."""
        found = {}
        for file in sorted(self.home.glob(f"[0-9]*.{self.suffix}")):
            try:
                found |= dict.fromkeys(indices_of(file), file)
            except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
                print(f"{file}: damaged ({error}): removed, its images are drawn again", file=sys.stderr)
                file.unlink()
        return found

    @property
    def suffix(self) -> str:
        """Of the file that makes a batch whole."""
        return "json" if self.image_format == "png" else "npz"

    def write(self, indices: Sequence[int], images: np.ndarray) -> None:
        """Add a batch, uint8 [n, H, W, 3]."""
        with whole(self.home / f"{indices[0]:06d}.{self.suffix}") as partial, partial.open("wb") as file:
            if self.image_format == "png":
                for i, image in zip(indices, images, strict=True):
                    Image.fromarray(image).save(self.png(i))
                    to_disk(self.png(i))
                file.write(json.dumps(list(indices)).encode())
            else:
                np.savez_compressed(file, indices=np.asarray(indices), images=images)

    def png(self, i: int) -> Path:
        return self.home / f"{i:06d}.png"

    def read(self, indices: Sequence[int], size: int | None = None, method: str = "bicubic") -> np.ndarray:
        """uint8 [n, H, W, 3] of all `indices` at once."""
        return np.concatenate(list(self.batches(indices, size, method)))

    def batches(
        self, indices: Sequence[int], size: int | None = None, method: str = "bicubic", batch_size: int = 64
    ) -> Iterator[np.ndarray]:
        """uint8 [n, H, W, 3] in the order of `indices`, at `size` px if that is given."""
        if self.image_format == "png":
            yield from read_files([self.png(i) for i in indices], size, method, batch_size)
            return
        shards, kept = self.batch_files(), (None, {})
        for first in range(0, len(indices), batch_size):
            images = []
            for i in indices[first : first + batch_size]:
                if kept[0] != shards[i]:
                    kept = (shards[i], load_shard(shards[i]))
                images.append(kept[1][i])
            yield resized(np.stack(images), size, method)


def indices_of(file: Path) -> list[int]:
    """The images of one batch."""
    if file.suffix == ".json":
        return json.loads(file.read_text())
    with np.load(file) as arrays:
        return arrays["indices"].tolist()


def load_shard(shard: Path) -> dict[int, np.ndarray]:
    """{index: image} of one npz."""
    with np.load(shard) as arrays:
        return dict(zip(arrays["indices"].tolist(), arrays["images"], strict=True))


@dataclass(frozen=True)
class ImageSet:
    """Images of one method as the metrics see them: the first `count` of a store, at `size` px."""

    store: ImageStore
    count: int
    size: int | None = None
    method: str = "bicubic"

    def __len__(self) -> int:
        return self.count

    def batches(self, batch_size: int = 64) -> Iterator[np.ndarray]:
        """uint8 [n, H, W, 3] in order."""
        return self.store.batches(range(self.count), self.size, self.method, batch_size)

    def at(self, indices: Sequence[int]) -> np.ndarray:
        """uint8 [len(indices), H, W, 3]."""
        return self.store.read(indices, self.size, self.method)

    @cached_property
    def drawn_at(self) -> int:
        """px, height, before any resizing."""
        return self.store.read([0]).shape[1]
