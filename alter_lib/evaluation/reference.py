"""The real images that distances are measured to: a folder, or an npz of the ADM evaluator."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..params import Evaluation, ParamsError, resolve
from .metrics import Moments
from .prompts import PromptList
from .resizing import read_files, resized
from .weights import Need, Unavailable

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
COCO_ID = re.compile(r"(\d{12})\.\w+$")  # COCO_val2014_000000000042.jpg, 000000000139.jpg


@dataclass(frozen=True)
class ImageFiles:
    """Image files in order, at `size` px."""

    name: str
    files: tuple[Path, ...]
    size: int | None
    method: str

    def __len__(self) -> int:
        return len(self.files)

    @property
    def digest(self) -> str:
        """Hash of the files' names and sizes: 16 hex digits."""
        facts = "".join(f"{path.name} {path.stat().st_size}\n" for path in self.files)
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def batches(self, batch_size: int = 64) -> Iterator[np.ndarray]:
        return read_files(self.files, self.size, self.method, batch_size)

    def moments(self, part: str) -> Moments | None:
        """A folder brings no statistics of its own."""


@dataclass(frozen=True)
class AdmArrays:
    """An npz of the ADM evaluator: arr_0 uint8 [N, H, W, 3] and, if it has them, statistics of the whole data set."""

    name: str
    path: Path
    arrays: dict[str, np.ndarray]
    size: int | None
    method: str

    def __len__(self) -> int:
        return len(self.arrays["arr_0"])

    @property
    def digest(self) -> str:
        """Hash of the file's name and size: 16 hex digits."""
        return hashlib.sha256(f"{self.path.name} {self.path.stat().st_size}".encode()).hexdigest()[:16]

    def batches(self, batch_size: int = 64) -> Iterator[np.ndarray]:
        for first in range(0, len(self), batch_size):
            yield resized(self.arrays["arr_0"][first : first + batch_size], self.size, self.method)

    def moments(self, part: str) -> Moments | None:
        """The statistics of `pool` or `spatial` features that the file holds."""
        mean, covariance = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}[part]
        return Moments(self.arrays[mean], self.arrays[covariance]) if mean in self.arrays else None


Reference = ImageFiles | AdmArrays


def load_reference(evaluation: Evaluation, prompts: PromptList | None) -> Reference:
    """The images of `evaluation.reference`; of a COCO folder those whose captions are in `prompts`.

    Raises Unavailable when there is none, ParamsError for a place without images.
    """
    if evaluation.reference is None:
        raise Unavailable(Need("real images", "evaluation.reference: a folder or npz", "the data set of the prompts"))
    path, where = resolve(evaluation.reference), evaluation.reference
    common = {"size": evaluation.resolution, "method": evaluation.resize}
    if path.suffix == ".npz" and path.is_file():
        with np.load(path) as arrays:
            found = dict(arrays)
        if "arr_0" not in found:
            raise ParamsError([f"evaluation.reference: {where} holds no arr_0; it has {', '.join(found)}"])
        return AdmArrays(where, path, found, **common)
    if not path.is_dir():
        raise Unavailable(Need("real images", where, "the data set of the prompts"))
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if evaluation.protocol.startswith("coco") and prompts:
        wanted = set(prompts.ids)
        files = [file for file in files if (match := COCO_ID.search(file.name)) and int(match[1]) in wanted]
    if len(files) < 2:
        raise ParamsError([f"evaluation.reference: {where} holds {len(files)} images of {evaluation.protocol}"])
    return ImageFiles(where, tuple(files), **common)
