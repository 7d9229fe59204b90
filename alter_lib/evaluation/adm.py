"""Export for the ADM evaluator (openai/guided-diffusion, evaluations/evaluator.py), which made Table 4's figures.

python -m alter_lib.evaluation.generate --params F --method alter --steps 250 --adm-npz samples.npz
python evaluator.py VIRTUAL_imagenet256_labeled.npz samples.npz      # TensorFlow, in an environment of its own
"""

import zipfile
from pathlib import Path

import numpy as np

from ..common.files import whole
from .image_store import ImageSet

COMMAND = "python evaluator.py VIRTUAL_imagenet256_labeled.npz {}"


def write_adm(images: ImageSet, path: Path) -> None:
    """One npz with arr_0 uint8 [N, H, W, 3], written batch by batch: 50 k images of 256 px are 9.8 GB."""
    batches = images.batches()
    first = next(batches)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), *first.shape[1:])}
    with (
        whole(path) as partial,
        zipfile.ZipFile(partial, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        file.write(first.tobytes())
        for batch in batches:
            file.write(batch.tobytes())
