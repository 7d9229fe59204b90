"""Features of the reference pictures, which every evaluation of a data set shares: computed once, then read."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from ..assets import listed
from ..common.files import whole
from ..params import Params

Extractor = Callable[[np.ndarray], np.ndarray]


def feature_folder(params: Params) -> Path:
    """Beside the runs; it may be removed at any time."""
    return params.run_folder.parent / ".features"


def kept(extractor: Extractor, images: np.ndarray, folder: Path) -> np.ndarray:
    """`extractor(images)`, float64 [N, D] of uint8 [N, H, W, 3], from `folder` where it is there.

    Kept under a hash of the pictures, of the extractors' weights, and of what rounding depends on: torch, threads.
    """
    facts = [extractor.__name__, images.shape, torch.__version__, torch.get_num_threads(), sorted(listed().items())]
    digest = hashlib.sha256(json.dumps(facts).encode() + np.ascontiguousarray(images).tobytes()).hexdigest()
    path = folder / f"{extractor.__name__}-{digest[:16]}.safetensors"
    if not path.is_file():
        with whole(path) as partial:
            save_file({"features": extractor(images)}, partial)
    return load_file(path)["features"]
