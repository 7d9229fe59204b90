"""Metrics against hand calculations, laws, and torchmetrics."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.image.kid import KernelInceptionDistance

from alter_lib.evaluation import bootstrap
from alter_lib.evaluation.metrics import (
    Moments,
    class_scores,
    frechet_distance,
    kernel_distance,
    psnr,
    ssim,
    text_ranks,
    within_manifold,
)


def gaussian(seed: int, n: int = 60, d: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def diagonal(mean: list[float], deviations: list[float]) -> Moments:
    return Moments(np.array(mean), np.diag(np.square(deviations)))


def test_frechet_of_axis_aligned_gaussians_by_hand() -> None:
    # |m|^2 + sum (s_a - s_b)^2 where the covariances commute: 9 + 16 + (1 - 3)^2 + (2 - 2)^2 = 29
    assert frechet_distance(diagonal([0, 0], [1, 2]), diagonal([3, 4], [3, 2])) == pytest.approx(29)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000), st.lists(st.floats(-5, 5), min_size=5, max_size=5))
def test_frechet_laws(first: int, second: int, shift: list[float]) -> None:
    a, b = gaussian(first), gaussian(second)
    rotation = np.linalg.qr(gaussian(first + 1)[:5])[0]
    distance = frechet_distance(Moments.of(a), Moments.of(b))
    assert distance >= -1e-6
    assert frechet_distance(Moments.of(a), Moments.of(a)) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(Moments.of(b), Moments.of(a)) == pytest.approx(distance, 1e-6, 1e-6)
    assert frechet_distance(Moments.of(a @ rotation), Moments.of(b @ rotation)) == pytest.approx(distance, 1e-6, 1e-6)
    assert frechet_distance(Moments.of(a), Moments.of(a + shift)) == pytest.approx(np.square(shift).sum(), abs=1e-5)


def test_frechet_with_fewer_samples_than_features_is_finite() -> None:
    a, b = gaussian(0, 4, 12), gaussian(1, 4, 12)
    # rank 3 of 12: the distance is still that of the moments, checked by the eigenvalues of the plain product
    roots = np.sqrt(np.linalg.eigvals(Moments.of(a).covariance @ Moments.of(b).covariance).astype(complex)).real.sum()
    trace = np.trace(Moments.of(a).covariance) + np.trace(Moments.of(b).covariance)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + trace - 2 * roots
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-4)


def test_kernel_distance_is_torchmetrics_kid_on_one_subset_of_all() -> None:
    a, b = gaussian(0), gaussian(1)
    kid = KernelInceptionDistance(feature=torch.nn.Flatten(), subsets=1, subset_size=len(a))
    kid.real_features, kid.fake_features = [torch.from_numpy(a)], [torch.from_numpy(b)]
    assert kernel_distance(a, b) == pytest.approx(kid.compute()[0].item(), rel=1e-6)


def test_psnr_by_hand() -> None:
    a = np.zeros((3, 2, 2, 3), np.uint8)
    b = a.copy()
    b[0] += 255  # error 255^2: 0 dB
    b[1, 0, 0, 0] = 51  # 51^2 / 12 = 216.75: 10 log10(300) dB
    assert psnr(a, b)[:2] == pytest.approx([0, 10 * np.log10(300)])
    assert psnr(a, b)[2] == np.inf


def test_psnr_does_not_wrap_around() -> None:
    dark, light = np.full((1, 2, 2, 3), 10, np.uint8), np.full((1, 2, 2, 3), 20, np.uint8)
    assert psnr(dark, light)[0] == psnr(light, dark)[0] == pytest.approx(10 * np.log10(255**2 / 100))


def test_ssim_of_equal_flat_and_noisy_images() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    flat, other = np.full_like(image, 100), np.full_like(image, 200)
    constant = (0.01 * 255) ** 2  # flat images: only the luminance term is left
    by_hand = (2 * 100 * 200 + constant) / (100**2 + 200**2 + constant)
    assert ssim(image, image) == pytest.approx([1.0])
    assert ssim(flat, other) == pytest.approx([by_hand], abs=1e-4)
    assert ssim(image, rng.integers(0, 256, image.shape, dtype=np.uint8))[0] < 0.1
    assert ssim(np.repeat(image, 2, 0), np.concatenate([image, flat])).shape == (2,)


def test_text_ranks_by_hand() -> None:
    texts = np.eye(4)
    images = np.array([[1, 0, 0, 0], [0.9, 0.1, 0, 0], [0, 0.2, 0.1, 0.3], [0, 0, 0, 1]])
    assert text_ranks(images, texts).tolist() == [0, 1, 2, 0]
    assert text_ranks(images, texts, among=2).tolist() == [0, 1, 1, 0]  # groups {0, 1} and {2, 3}
    assert text_ranks(images[:3], texts[:3], among=2).tolist() == [0, 1]  # the last group is not full


def test_equal_captions_tie() -> None:
    texts = np.array([[1.0, 0], [1.0, 0]])
    assert text_ranks(np.array([[1.0, 0], [0.6, 0.8]]), texts).tolist() == [0, 0]


def test_resamples_draw_n_of_n_and_repeat() -> None:
    draws = bootstrap.resamples(50, 20, 3)
    assert (draws.sum(1) == 50).all() and draws.std() > 0.9  # multinomial: deviation about 1
    assert (draws == bootstrap.resamples(50, 20, 3)).all()
    assert (draws != bootstrap.resamples(50, 20, 4)).any()
    at_once = np.random.default_rng([3, 50]).multinomial(50, np.full(50, 1 / 50), size=20)
    assert (draws == at_once).all()


def test_intervals_of_many_images_take_less_memory_than_the_images() -> None:
    """10000 images of 32 px are 31 MB; their draws as numpy makes them would be 80, and 80 more in the product."""
    tracemalloc.start()
    draws = bootstrap.resamples(10_000, 1000, 0)
    values = np.random.default_rng(0).normal(size=10_000)
    replicates = bootstrap.mean_replicates(values, draws)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert replicates == pytest.approx(draws.astype(float) @ values / 10_000)
    assert peak < 30e6, peak


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_replicate_is_the_distance_of_the_repeated_rows(seed: int) -> None:
    a, b = gaussian(seed), gaussian(seed + 1, 40)
    draws = np.concatenate([np.ones((1, 40), int), bootstrap.resamples(40, 3, seed)])
    repeated = [np.repeat(b, draw, axis=0) for draw in draws]
    expected = [frechet_distance(Moments.of(a), Moments.of(rows)) for rows in repeated]
    assert list(bootstrap.frechet_replicates(Moments.of(a), b, draws)) == pytest.approx(expected, rel=1e-6, abs=1e-8)
    assert bootstrap.kernel_replicates(a, b, draws)[0] == pytest.approx(kernel_distance(a, b))


def test_the_interval_has_the_width_of_the_true_spread() -> None:
    """96 % of independent sets of N should lie in an interval of this width; the plain bootstrap's is off centre."""
    rng, reference = np.random.default_rng(0), Moments(np.zeros(4), np.eye(4))
    sets = rng.normal(size=(300, 80, 4)) * [1, 1.5, 2, 1]
    values = np.array([frechet_distance(reference, Moments.of(rows)) for rows in sets])
    replicates = np.fromiter(bootstrap.frechet_replicates(reference, sets[0], bootstrap.resamples(80, 500, 0)), float)
    low, high = bootstrap.interval(bootstrap.centred(values[0], replicates))
    assert low < values[0] < high
    assert high - low == pytest.approx(np.subtract(*np.quantile(values, [0.975, 0.025])), rel=0.35)
    assert replicates.mean() > values[0]  # the bias that `centred` takes out


def test_pairing_narrows_the_interval_of_a_ratio() -> None:
    reference, rows = Moments(np.zeros(4), np.eye(4)), np.random.default_rng(1).normal(size=(100, 4)) * 2
    other = rows * 1.01
    values = [frechet_distance(reference, Moments.of(x)) for x in (rows, other)]
    draws = bootstrap.resamples(100, 300, 0), bootstrap.resamples(100, 300, 1)
    a, b, c = (
        np.fromiter(bootstrap.frechet_replicates(reference, x, d), float)
        for x, d in ((rows, draws[0]), (other, draws[0]), (other, draws[1]))
    )
    paired = bootstrap.ratio_interval(values[0], a, values[1], b)
    unpaired = bootstrap.ratio_interval(values[0], a, values[1], c)
    assert paired[1] - paired[0] < 0.2 * (unpaired[1] - unpaired[0])
    assert paired[0] < values[0] / values[1] < paired[1]


def test_class_scores_of_uniform_predictions_are_one_and_of_sure_balanced_ones_the_number_of_classes():
    assert class_scores(np.full((6, 4), 0.25))[0] == pytest.approx(1)
    assert class_scores(np.eye(4).repeat(3, 0))[0] == pytest.approx(4)


def test_class_scores_by_hand_and_of_resamples():
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    marginal = p.mean(0)
    kl = [sum(x * math.log(x / m) for x, m in zip(row, marginal, strict=True)) for row in p]
    assert class_scores(p)[0] == pytest.approx(math.exp(sum(kl) / 3))
    drawn = np.array([[2, 0, 1], [1, 1, 1]])
    expected = [class_scores(p[[0, 0, 2]])[0], class_scores(p)[0]]
    assert class_scores(p, drawn) == pytest.approx(expected)


def test_manifold_membership_against_brute_force():
    random = np.random.default_rng(0)
    of, points = random.normal(size=(30, 2)), 2 * random.normal(size=(40, 2))
    distances = np.linalg.norm(of[:, None] - of[None], axis=-1)
    radii = np.sort(distances, 1)[:, 3]  # the first is the point itself
    expected = [any(np.linalg.norm(x - y) <= r for y, r in zip(of, radii, strict=True)) for x in points]
    found = within_manifold(points, of)
    assert found.tolist() == expected and 0 < found.mean() < 1
    assert within_manifold(of, of).all()
