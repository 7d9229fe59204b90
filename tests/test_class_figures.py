"""The figures of class-conditional pictures (Table 4's, by the embedded classifier), on real Fashion-MNIST."""

from pathlib import Path

import numpy as np
import pytest

from alter_lib import load_params
from alter_lib.evaluation.features import classify
from alter_lib.evaluation.judge import Judge, Measured
from alter_lib.evaluation.kept_features import kept
from alter_lib.evaluation.protocol import Protocol, load_protocol

N = 60
PARAMS = load_params("params/tiny_dit.yaml", {"evaluation.num_images": N, "evaluation.bootstrap": 50})


@pytest.fixture(scope="module")
def protocol() -> Protocol:
    whole = load_protocol(PARAMS)
    return Protocol(whole.prompts, whole.names, whole.real, whole.reference[:300], whole.grid)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def judge(protocol: Protocol, folder: Path) -> Judge:
    return Judge(protocol, PARAMS.evaluation, 0, folder)


def figures(measured: Measured) -> dict[str, float]:
    return {metric.name: metric.value for metric in measured.metrics}


def test_every_figure_of_a_sample_has_n_and_an_interval_around_it(judge: Judge, protocol: Protocol) -> None:
    metrics = judge.measure(protocol.real, "real").metrics
    assert {metric.name for metric in metrics} >= {"class_accuracy", "classifier_score", "classifier_precision",
                                                   "classifier_recall", "sfid_alexnet"}  # fmt: skip
    for metric in metrics:
        assert metric.n == N and metric.interval[0] < metric.interval[1], metric.name
    shares = [metric for metric in metrics if metric.unit == "share"]
    assert all(0 <= metric.interval[0] <= metric.value <= metric.interval[1] <= 1 for metric in shares)


def test_class_accuracy_is_the_share_of_pictures_taken_for_their_class(judge: Judge, protocol: Protocol) -> None:
    """Asked for the next class each, all pictures that are taken for their own are wrong."""
    taken = classify(protocol.real)[0].argmax(1)
    share = np.mean([int(found) == label for found, label in zip(taken, protocol.prompts, strict=True)])
    assert figures(judge.measure(protocol.real, "real"))["class_accuracy"] == pytest.approx(share) and share > 0.8
    turned = tuple((label + 1) % 10 for label in protocol.prompts)
    other = Judge(Protocol(turned, protocol.names, protocol.real, protocol.reference, protocol.grid),
                  PARAMS.evaluation, 0, judge.folder)  # fmt: skip
    assert figures(other.measure(protocol.real, "real"))["class_accuracy"] <= 1 - share


def test_one_picture_over_and_over_is_precise_and_recalls_nothing(judge: Judge, protocol: Protocol) -> None:
    """Its manifold is a point; it lies within that of the real pictures that it is one of."""
    found = figures(judge.measure(np.repeat(protocol.reference[:1], N, 0), "real"))
    assert found["classifier_precision"] == 1 and found["classifier_recall"] <= 1 / 300
    assert found["classifier_score"] == pytest.approx(1)


def test_the_prompts_are_labels_with_their_names(protocol: Protocol) -> None:
    assert protocol.has_classes and len(protocol.prompts) == N and set(protocol.prompts) <= set(range(10))


def test_reference_features_are_computed_once_and_read_after(tmp_path: Path) -> None:
    """For other pictures they are computed anew."""
    calls = []

    def means(images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        return images.mean((1, 2)).astype(np.float64)

    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    first, again = kept(means, images, tmp_path), kept(means, images, tmp_path)
    assert calls == [5] and first.dtype == np.float64 and np.array_equal(first, again)
    assert np.array_equal(again, means(images)) and np.array_equal(kept(means, images[:3], tmp_path), means(images[:3]))
    assert calls == [5, 5, 3, 3] and len([*tmp_path.iterdir()]) == 2
