"""The embedded class-conditional pictures and their classifier."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from alter_lib.data import fashion
from alter_lib.evaluation.features import classify


@pytest.mark.parametrize(("split", "count"), [("train", 10000), ("test", 2000), (None, 12000)])
def test_a_split_has_its_size_and_types(split: str | None, count: int) -> None:
    images, labels = fashion.load(split)
    assert images.shape == (count, 32, 32, 3) and images.dtype == np.uint8
    assert labels.shape == (count,) and labels.dtype == np.int64


def test_classes_take_turns_in_both_splits() -> None:
    labels = fashion.load(None)[1]
    assert (labels.reshape(-1, 10) == np.arange(len(fashion.CLASSES))).all()


def test_pictures_are_grey_framed_by_two_black_pixels_and_filled() -> None:
    images, _ = fashion.load("test")
    assert (images[..., :1] == images).all()
    inside = images[:, 2:-2, 2:-2]
    assert images.sum(dtype=np.int64) == inside.sum(dtype=np.int64)
    assert inside.max((0, 1, 3)).all() and inside.max((0, 2, 3)).all()  # some picture reaches each of its edges


def test_no_picture_occurs_twice_or_in_both_splits() -> None:
    images, _ = fashion.load(None)
    assert len({image.tobytes() for image in images}) == len(images)


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="'valid' is not one of train, test, None"):
        fashion.load("valid")


def test_the_source_files_are_read_past_their_headers(tmp_path: Path) -> None:
    pixels, labels = np.arange(2 * 28 * 28, dtype=np.uint16).astype(np.uint8), bytes([7, 3])
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (2, 28, 28))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 2]) + labels))
    found, classes = fashion.read_source(tmp_path, "test")
    assert (found == pixels.reshape(2, 28, 28)).all() and classes.tolist() == [7, 3]


def test_the_classifier_knows_the_test_pictures() -> None:
    """0.928 of the first 500 when it was made (README of assets/fashion_classifier); always one class: 0.1."""
    images, labels = fashion.load("test")
    probabilities, features = classify(images[:500])
    assert features.shape == (500, 96) and np.allclose(probabilities.sum(1), 1)
    assert (probabilities.argmax(1) == labels[:500]).mean() > 0.9
