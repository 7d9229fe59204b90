"""What every method is measured on: prompts, real images, reference images. FID-AlexNet's protocol is fixed here.

The train split of the emoji is permuted once (`evaluation.seed`): the last 2000 rows are the prompts (caption = name),
their pictures the real images that give the floor at the same N; the pictures of the other rows are the reference. No
picture is in both. Train split: the tiny teacher has seen 3132 captioned pictures, a tenth of that many held-out ones
would neither give a usable covariance of 256 features nor be prompts that it can draw.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from ..assets import listed
from ..data import emoji
from ..params import Params, ParamsError
from .features import EXTRACTOR

PROMPTS = 2000


@dataclass(frozen=True)
class Protocol:
    """prompts [N]; real: their pictures uint8 [N, H, W, 3]; reference: pictures of other rows [M, H, W, 3]."""

    prompts: tuple[str, ...]
    real: np.ndarray
    reference: np.ndarray
    grid: tuple[int, ...]  # prompts of the side-by-side grid: base emoji only, skin tones would crowd it

    def digest(self) -> str:
        """Hash of prompts, pictures and feature extractors: figures with another digest are of another protocol."""
        digest = hashlib.sha256(json.dumps(self.prompts).encode())
        for images in (self.real, self.reference):
            digest.update(np.ascontiguousarray(images).tobytes())
        weights = {name: value for name, value in listed().items() if name.startswith(("alexnet/", "dual_encoder/"))}
        digest.update(json.dumps([EXTRACTOR, weights], sort_keys=True).encode())
        return digest.hexdigest()[:16]


def emoji_protocol(params: Params, grid_size: int = 24) -> Protocol:
    """The protocol at N = evaluation.num_images. Raises ParamsError when there are fewer prompts."""
    n = params.evaluation.num_images
    if n > PROMPTS:
        raise ParamsError([f"evaluation.num_images: {n} is not at most {PROMPTS}, the prompts that emoji has"])
    images, rows = emoji.load("train")
    order = np.random.default_rng(params.evaluation.seed).permutation(len(rows))
    reference, chosen = order[:-PROMPTS], order[-PROMPTS:][:n]
    grid = [i for i, row in enumerate(chosen) if not rows[row]["variant"]][:grid_size]
    return Protocol(tuple(rows[i]["name"] for i in chosen), images[chosen], images[reference], tuple(grid))
