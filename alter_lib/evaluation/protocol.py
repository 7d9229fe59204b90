"""What every method is measured on: prompts, real images, reference images. FID-AlexNet's protocol is fixed here.

The train split is permuted once (`evaluation.seed`): the last 2000 rows are the prompts (emoji: the name; fashion: the
class label), their pictures the real images that give the floor at the same N; the pictures of the other rows are the
reference. No picture is in both. Train split: a held-out tenth of the emoji would neither give a usable covariance
of 256 features nor be prompts that the tiny teacher can draw.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from ..assets import listed
from ..data import SOURCES, fashion
from ..params import Params, ParamsError
from .features import EXTRACTOR

PROMPTS = 2000


@dataclass(frozen=True)
class Protocol:
    """prompts [N], captions or class labels, and their names; real: their pictures uint8 [N, H, W, 3]; reference:
    pictures of other rows [M, H, W, 3]; grid: the prompts of the side-by-side grid."""

    prompts: tuple[str, ...] | tuple[int, ...]
    names: tuple[str, ...]
    real: np.ndarray
    reference: np.ndarray
    grid: tuple[int, ...]

    @property
    def has_classes(self) -> bool:
        return isinstance(self.prompts[0], int)

    def digest(self) -> str:
        """Hash of prompts, pictures and feature extractors: figures with another digest are of another protocol."""
        digest = hashlib.sha256(json.dumps(self.prompts).encode())
        for images in (self.real, self.reference):
            digest.update(np.ascontiguousarray(images).tobytes())
        judges = ("alexnet/", "fashion_classifier/" if self.has_classes else "dual_encoder/")
        weights = {name: value for name, value in listed().items() if name.startswith(judges)}
        digest.update(json.dumps([EXTRACTOR, weights], sort_keys=True).encode())
        return digest.hexdigest()[:16]


def load_protocol(params: Params, grid_size: int = 24) -> Protocol:
    """The protocol of `data.source` at N = evaluation.num_images.

    Raises ParamsError when there are fewer prompts, or for a source that does not come with the repository.
    """
    n, source = params.evaluation.num_images, params.data.source
    if source not in SOURCES:
        fault = f"embedded has no pictures of data.source {source}; known: {', '.join(SOURCES)}"
        raise ParamsError([f"evaluation.protocol: {fault}"])
    if n > PROMPTS:
        raise ParamsError([f"evaluation.num_images: {n} is not at most {PROMPTS}, the prompts that {source} has"])
    images, rows = SOURCES[source].load("train")
    order = np.random.default_rng(params.evaluation.seed).permutation(len(rows))
    reference, chosen = order[:-PROMPTS], order[-PROMPTS:][:n]
    if source == "fashion":
        prompts = tuple(rows[chosen].tolist())
        names = tuple(fashion.CLASSES[label] for label in prompts)
        grid = sorted(range(n), key=lambda i: (prompts[:i].count(prompts[i]), prompts[i]))  # class after class
    else:
        prompts = names = tuple(rows[i]["name"] for i in chosen)
        grid = [i for i, row in enumerate(chosen) if not rows[row]["variant"]]  # skin tones would crowd it
    return Protocol(prompts, names, images[chosen], images[reference], tuple(grid[:grid_size]))
