"""What a distance at scale is measured to: real images, or the statistics that an npz of the ADM evaluator brings."""

from pathlib import Path

import numpy as np
import pytest

from alter_lib.evaluation import scale_judge
from alter_lib.evaluation.metrics import Moments, frechet_distance
from alter_lib.evaluation.scale_judge import ScaleJudge
from alter_lib.params import Evaluation

RANDOM = np.random.default_rng(0)
REAL, DRAWN = (RANDOM.integers(low, 256, (n, 8, 8, 3), dtype=np.uint8) for low, n in ((0, 9), (60, 12)))
MEAN, COVARIANCE = np.array([1.0, 2.0, 3.0]), np.diag([4.0, 5.0, 6.0])
COMMON = {"method": "alter", "steps": 2}


class Colours:
    """In Inception's place: the mean colour of an image, twice."""

    name, weights, resize = "colours", "0" * 16, "none"

    def __init__(self, evaluation: Evaluation, device: str) -> None:
        pass

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        means = images.mean((1, 2))
        return {"pool": means, "spatial": 2 * means, "probabilities": means / means.sum(1, keepdims=True)}


class Drawn:
    def __len__(self) -> int:
        return len(DRAWN)

    def batches(self, batch_size: int):
        return iter([DRAWN[:5], DRAWN[5:]])


def measured(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    of = {Colours: ("fid", "inception_score", "precision", "sfid")}
    monkeypatch.setattr(scale_judge, "OF_EXTRACTOR", of)
    monkeypatch.setattr(scale_judge, "Inception", Colours)
    options = Evaluation(protocol="imagenet", reference=str(path), metrics=of[Colours], bootstrap=20, num_images=12)
    return {metric.name: metric for metric in ScaleJudge(options, None, "cpu").measure(Drawn(), COMMON)}


def colours(images: np.ndarray) -> Moments:
    return Moments.of(images.mean((1, 2)))


def test_an_npz_with_statistics_serves_fid_by_them_and_precision_by_its_images(tmp_path: Path, monkeypatch) -> None:
    np.savez(tmp_path / "r.npz", arr_0=REAL, mu=MEAN, sigma=COVARIANCE)
    found = measured(tmp_path / "r.npz", monkeypatch)
    assert found["fid"].value == pytest.approx(frechet_distance(Moments(MEAN, COVARIANCE), colours(DRAWN)), rel=1e-6)
    assert "r.npz (its own statistics, " in found["fid"].reference
    assert "r.npz (9 images, " in found["precision"].reference
    double = [Moments(2 * m.mean, 4 * m.covariance) for m in (colours(REAL), colours(DRAWN))]  # no mu_s in the file
    assert found["sfid"].value == pytest.approx(frechet_distance(*double), rel=1e-6)
    assert "r.npz (9 images, " in found["sfid"].reference and found["inception_score"].reference is None


def test_images_alone_serve_every_distance(tmp_path: Path, monkeypatch) -> None:
    np.savez(tmp_path / "r.npz", arr_0=REAL)
    found = measured(tmp_path / "r.npz", monkeypatch)
    assert found["fid"].value == pytest.approx(frechet_distance(colours(REAL), colours(DRAWN)), rel=1e-6)
    assert "r.npz (9 images, " in found["fid"].reference
    for metric in found.values():
        assert (metric.n, metric.extractor, metric.weights) == (12, "colours", "0" * 16) and metric.interval
