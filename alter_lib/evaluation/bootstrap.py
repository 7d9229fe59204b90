"""95 % intervals by the bootstrap over prompts, paired: every method is resampled at the same prompts.

Frechet and kernel distances of a resample are biased (repeated points look like a narrower distribution), so replicates
are shifted until their mean is the estimate: the interval describes the spread of the figure at this N.
"""

from collections.abc import Iterator

import numpy as np

from .metrics import Moments, polynomial_kernel, symmetric_root

DRAWS = 50  # that are in memory as float64 at a time


def resamples(n: int, count: int, seed: int) -> np.ndarray:
    """How often each of `n` prompts is drawn, uint16 [count, n]; equal arguments give equal draws, which pairs
    methods."""
    random, share = np.random.default_rng([seed, n]), np.full(n, 1 / n)
    draws = np.empty((count, n), np.uint16)  # numpy's int64 at once would be several times as large as the images
    for row in draws:
        row[:] = random.multinomial(n, share)
    return draws


def mean_replicates(values: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Replicates [B] of the mean of `values` [n]."""
    parts = np.array_split(draws, -(-len(draws) // DRAWS))  # a product makes a float64 copy
    return np.concatenate([part @ values for part in parts]) / len(values)


def frechet_replicates(reference: Moments, features: np.ndarray, draws: np.ndarray) -> Iterator[float]:
    """Frechet distance to the fixed `reference` of each resample of `features` [n, D].

    Features are moved to the reference's mean and multiplied once by the root of its covariance: a resample then costs
    one product and one eigenvalue problem.
    """
    n, centred = len(features), features - reference.mean
    rotated, lengths = centred @ symmetric_root(reference.covariance), np.square(centred).sum(1)
    trace = np.trace(reference.covariance)
    for draw in draws:
        drawn = draw > 0
        weight = draw[drawn].astype(np.float64)
        mean = weight @ centred[drawn] / n
        spread = (weight @ lengths[drawn] - n * mean @ mean) / (n - 1)
        rows = rotated[drawn] - weight @ rotated[drawn] / n
        rows *= np.sqrt(weight)[:, None]
        cross = np.sqrt(np.linalg.eigvalsh(rows.T @ rows / (n - 1)).clip(0)).sum()
        yield float(mean @ mean + trace + spread - 2 * cross)


def kernel_replicates(reference: np.ndarray, features: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """KID replicates [B]: pairs of a prompt with its own copy are left out, as the estimate leaves out i = j."""
    n, weights = len(features), draws.astype(np.float64)
    own = polynomial_kernel(reference, reference)
    own = (own.sum() - np.trace(own)) / (len(own) * (len(own) - 1))
    among = polynomial_kernel(features, features)
    np.fill_diagonal(among, 0)
    pairs = n * n - np.square(weights).sum(1)
    across = polynomial_kernel(features, reference).mean(1)
    return own + ((weights @ among) * weights).sum(1) / pairs - 2 * weights @ across / n


def centred(estimate: float, replicates: np.ndarray) -> np.ndarray:
    """Replicates shifted so that their mean is the estimate."""
    return np.asarray(replicates) - np.mean(replicates) + estimate


def interval(replicates: np.ndarray) -> tuple[float, float]:
    """The central 95 % of the replicates."""
    low, high = np.quantile(replicates, [0.025, 0.975])
    return float(low), float(high)


def ratio_interval(a: float, a_replicates: np.ndarray, b: float, b_replicates: np.ndarray) -> tuple[float, float]:
    """95 % interval of a / b from paired replicates (same draws, same order)."""
    return interval(centred(a, a_replicates) / centred(b, b_replicates))
