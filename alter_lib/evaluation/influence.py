"""Distances of large feature sets with their bootstrap in one pass.

A replicate of the bootstrap computes a distance anew; at 2048 features and 30 k images a thousand of them take hours.
What each image adds to the distance, to first order (the influence function; Efron 1982), takes one pass, and a
replicate is then value + sum of (times drawn) x influence / N: linear in the draws, and centred at the value.
"""

from collections.abc import Callable, Iterator

import numpy as np

from .bootstrap import mean_replicates
from .metrics import Moments, polynomial_kernel, symmetric_root

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
PAIRS = 2**21  # that a kernel is computed of at a time: 16 MB an array, whatever the number of images
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0  # Jayasumana et al. 2024, and of the paper


def linear_replicates(value: float, influence: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Replicates [B] from the influence [n] of each image; draws [B, n]: how often each is drawn."""
    return value + mean_replicates(influence, draws)


def frechet_influence(reference: Moments, features: np.ndarray) -> tuple[float, np.ndarray]:
    """Frechet distance of `features` [n, D] to `reference`, and the influence [n] of each row.

    The derivative in the set's covariance C is I - R (R C R)^(-1/2) R, R the root of the reference's covariance.
    """
    moments, root = Moments.of(features), symmetric_root(reference.covariance)
    values, vectors = np.linalg.eigh(root @ moments.covariance @ root)
    kept = values > values[-1] * len(values) * np.finfo(float).eps  # fewer images than features: rank n - 1
    shift = moments.mean - reference.mean
    traces = np.trace(reference.covariance) + np.trace(moments.covariance)
    distance = float(shift @ shift + traces - 2 * np.sqrt(values.clip(0)).sum())
    gradient = root @ (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T @ root
    centred = features - moments.mean
    spread = np.square(centred).sum(1) - np.einsum("nd,nd->n", centred @ gradient, centred)
    influence = 2 * centred @ shift + spread
    return distance, influence - influence.mean()


def gaussian_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """exp(-|x - y|^2 / (2 sigma^2)) for all pairs, CMMD's kernel."""
    squared = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    return np.exp(-squared / (2 * CMMD_SIGMA**2))


def row_means(kernel: Kernel, a: np.ndarray, b: np.ndarray | None = None, pairs: int = PAIRS) -> np.ndarray:
    """Mean of the kernel of each row of `a` [n, D] with all of `b`; b None: with all other rows of `a`."""
    block = max(1, pairs // len(a if b is None else b))

    def parts() -> Iterator[np.ndarray]:
        for first in range(0, len(a), block):
            values = kernel(a[first : first + block], a if b is None else b)
            if b is None:
                rows = np.arange(len(values))
                values[rows, first + rows] = 0
            yield values.sum(1)

    return np.concatenate(list(parts())) / (len(a) - 1 if b is None else len(b))


def kid_influence(reference: np.ndarray, features: np.ndarray) -> tuple[float, np.ndarray]:
    """KID, the unbiased squared MMD of all pairs under the cubic kernel, and the influence [n] of each row."""
    own = row_means(polynomial_kernel, reference).mean()
    among, across = row_means(polynomial_kernel, features), row_means(polynomial_kernel, features, reference)
    return float(own + among.mean() - 2 * across.mean()), centred_twice(among - across)


def cmmd_influence(reference: np.ndarray, features: np.ndarray) -> tuple[float, np.ndarray]:
    """CMMD: 1000 x the biased squared MMD of unit CLIP embeddings under a Gaussian of sigma 10, and the influence."""
    own = row_means(gaussian_kernel, reference, reference).mean()
    among, across = row_means(gaussian_kernel, features, features), row_means(gaussian_kernel, features, reference)
    value = own + among.mean() - 2 * across.mean()
    return float(CMMD_SCALE * value), CMMD_SCALE * centred_twice(among - across)


def centred_twice(rows: np.ndarray) -> np.ndarray:
    """Each image stands in two places of a kernel sum: twice its deviation from the mean."""
    return 2 * (rows - rows.mean())
