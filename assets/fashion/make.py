"""Builds fashion.npz, the first 1000 training and 200 test images of each of Fashion-MNIST's ten classes.

    apt-get download dataset-fashion-mnist                       # 30.9 MB, nothing is installed
    python assets/fashion/make.py dataset-fashion-mnist_*.deb    # or the folder that holds the four idx files

Arrays: images uint8 [12000, 28, 28], labels uint8, split (`train` | `test`); classes take turns. The file is a zip of
.npy members compressed by LZMA, which `numpy.load` reads as any npz: 14 % smaller than by deflate.
"""

import argparse
import subprocess
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from alter_lib.data.fashion import CLASSES, read_source

HERE = Path(__file__).parent
PER_CLASS = {"train": 1000, "test": 200}


def balanced(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The first PER_CLASS images of every class: one of each, then the second of each, ..."""
    images, labels = read_source(folder, split)
    first = [np.flatnonzero(labels == label)[: PER_CLASS[split]] for label in range(len(CLASSES))]
    chosen = np.stack(first, axis=1).ravel()
    return images[chosen], labels[chosen]


def build(folder: Path) -> dict[str, np.ndarray]:
    parts = {split: balanced(folder, split) for split in PER_CLASS}
    return {
        "images": np.concatenate([images for images, _ in parts.values()]),
        "labels": np.concatenate([labels for _, labels in parts.values()]),
        "split": np.repeat(list(parts), [len(labels) for _, labels in parts.values()]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the .deb, or the folder of the idx files")
    source = parser.parse_args().source
    with tempfile.TemporaryDirectory() as unpacked:
        if source.suffix == ".deb":
            subprocess.run(["dpkg-deb", "-x", source, unpacked], check=True)
            source = Path(unpacked) / "usr" / "share" / "datasets" / "fashion-mnist"
        arrays = build(source)
    with zipfile.ZipFile(HERE / "fashion.npz", "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)
    print(len(arrays["images"]), "images")


if __name__ == "__main__":
    main()
