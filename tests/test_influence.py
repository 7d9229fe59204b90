"""Distances against scipy, direct sums and brute force in float64; their one-pass bootstrap against the exact one."""

import math
import tracemalloc

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from alter_lib.evaluation import bootstrap
from alter_lib.evaluation.influence import (
    cmmd_influence,
    frechet_influence,
    gaussian_kernel,
    kid_influence,
    linear_replicates,
    row_means,
)
from alter_lib.evaluation.metrics import Moments, frechet_distance, kernel_distance, polynomial_kernel
from alter_lib.evaluation.scale_judge import inception_score, manifold_share
from alter_lib.params import Evaluation

ONCE = np.ones((1, 60), int)


def features(seed: int, n: int = 60, d: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_frechet_is_scipys_matrix_root(seed: int) -> None:
    a, b = features(seed, 80), features(seed + 1)
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    shift = a.mean(0) - b.mean(0)
    expected = shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root)
    value, influence = frechet_influence(Moments.of(a), b)
    assert value == pytest.approx(expected, rel=1e-6)
    assert value == pytest.approx(frechet_distance(Moments.of(a), Moments.of(b)), rel=1e-9)
    assert influence.mean() == pytest.approx(0, abs=1e-9)


def test_frechet_closed_form() -> None:
    """Two sets that differ by a shift and a scale of 2 along each axis: |s|^2 + sum (2 s_i - s_i)^2 = |s|^2 + tr C."""
    a = features(3)
    b = 2 * a + 1
    shift = b.mean(0) - a.mean(0)
    expected = shift @ shift + np.trace(np.cov(a, rowvar=False))
    assert frechet_influence(Moments.of(a), b)[0] == pytest.approx(expected, rel=1e-6)


def test_kid_and_cmmd_are_direct_double_sums() -> None:
    a, b = features(0, 9), features(1, 7)

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (sum(p * q for p, q in zip(x, y, strict=True)) / 6 + 1) ** 3

    within = [sum(k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j) / (len(s) * (len(s) - 1))
              for s in (a, b)]  # fmt: skip
    across = sum(k(x, y) for x in a for y in b) / 63
    assert kid_influence(a, b)[0] == pytest.approx(sum(within) - 2 * across, rel=1e-6)

    def g(x: np.ndarray, y: np.ndarray) -> float:
        return math.exp(-sum((p - q) ** 2 for p, q in zip(x, y, strict=True)) / 200)

    a, b = unit(a), unit(b)
    means = [sum(g(x, y) for x in s for y in t) / (len(s) * len(t)) for s, t in ((a, a), (b, b), (a, b))]
    assert cmmd_influence(a, b)[0] == pytest.approx(1000 * (means[0] + means[1] - 2 * means[2]), rel=1e-6)


def test_row_means_do_not_depend_on_the_block() -> None:
    a, b = features(0, 11), features(1, 5)
    for kernel in (polynomial_kernel, gaussian_kernel):
        assert row_means(kernel, a, b, pairs=40) == pytest.approx(kernel(a, b).mean(1))
        whole = kernel(a, a)
        np.fill_diagonal(whole, 0)
        assert row_means(kernel, a, pairs=40) == pytest.approx(whole.sum(1) / 10)


def test_kernels_of_many_images_are_computed_in_parts() -> None:
    """All pairs of 6000 are 288 MB."""
    images = features(0, 6000, 3)
    tracemalloc.start()
    kid_influence(images[:100], images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 70e6, peak


@pytest.mark.parametrize("distance", ["frechet", "kid", "cmmd"])
def test_influence_is_the_derivative_in_an_image_s_weight(distance: str) -> None:
    """Numerically: the set with image i once more moves the distance by influence / n to first order."""
    a, b = features(0, 400, 3), features(1, 400, 3) * 1.5
    measures = {"frechet": lambda x: frechet_influence(Moments.of(a), x), "kid": lambda x: kid_influence(a, x),
                "cmmd": lambda x: cmmd_influence(unit(a), unit(x))}  # fmt: skip
    value, influence = measures[distance](b)
    moved = [measures[distance](np.concatenate([b, b[i : i + 1]]))[0] - value for i in range(0, 400, 20)]
    predicted = influence[::20] / 400
    assert np.corrcoef(moved, predicted)[0, 1] > 0.99
    assert np.abs(moved - predicted).max() < 0.1 * np.abs(predicted).max()


def test_one_pass_replicates_spread_as_the_exact_bootstrap() -> None:
    a, b = features(0, 300, 4), features(1, 200, 4)
    draws = bootstrap.resamples(200, 400, 0)
    moments = Moments.of(a)
    exact = {
        "fid": np.fromiter(bootstrap.frechet_replicates(moments, b, draws), float),
        "kid": bootstrap.kernel_replicates(a, b, draws),
    }
    ours = {"fid": frechet_influence(moments, b), "kid": kid_influence(a, b)}
    for name, (value, influence) in ours.items():
        replicates = linear_replicates(value, influence, draws)
        assert replicates.std() == pytest.approx(exact[name].std(), rel=0.1)
        assert np.corrcoef(replicates, exact[name])[0, 1] > 0.95  # the same draws move both alike: pairing holds
    assert kid_influence(a, b)[0] == pytest.approx(kernel_distance(a, b), rel=1e-9)


def test_fewer_images_than_features_give_a_finite_influence() -> None:
    value, influence = frechet_influence(Moments.of(features(0, 100, 12)), features(1, 5, 12))
    assert np.isfinite(influence).all() and value > 0


def test_inception_score_of_uniform_predictions_is_one_and_splits_are_averaged() -> None:
    draws = np.ones((2, 10_000), int)
    assert inception_score(np.full((10_000, 4), 0.25), draws)[0] == pytest.approx(1)
    halves = np.concatenate([np.eye(2)[[0, 1] * 2500], np.eye(2)[[0] * 5000]])  # 2 and 1 by halves of 5000
    assert inception_score(halves, draws)[0] == pytest.approx(1.5)


def test_precision_and_recall_against_brute_force() -> None:
    evaluation = Evaluation(bootstrap=50)
    real, drawn = features(0, 40, 3), features(1, 60, 3)

    def share(points: np.ndarray, of: np.ndarray) -> float:
        radii = [sorted(np.linalg.norm(of - x, axis=1))[3] for x in of]
        return np.mean([any(np.linalg.norm(p - x) <= r for x, r in zip(of, radii, strict=True)) for p in points])

    precision, replicates = manifold_share("precision", drawn, real, ONCE, evaluation)
    assert precision == pytest.approx(share(drawn, real)) and replicates == pytest.approx([precision])
    recall, replicates = manifold_share("recall", drawn, real, ONCE, evaluation)
    assert recall == pytest.approx(share(real, drawn)) and len(replicates) == 50
    assert 0 < precision < 1 and 0 < recall < 1
