"""The metrics as pure functions of arrays: Frechet distance, KID, PSNR, SSIM, retrieval. Sources beside each."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from .features import channels_first

HIGHEST_PSNR = 100.0  # dB that equal images count as: their own value is infinite


@dataclass(frozen=True)
class Moments:
    """Mean [D] and covariance [D, D] (divisor N - 1) of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Self:
        features = features.astype(np.float64)
        return cls(features.mean(0), np.cov(features, rowvar=False))


def symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric positive semi-definite matrix; rounding's negative eigenvalues count as 0."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), Heusel et al. 2017 (arXiv 1706.08500) Eq. 6.

    With R = C_a^(1/2), R C_b R has the eigenvalues of C_a C_b and is symmetric: no complex root is needed.
    """
    root = symmetric_root(a.covariance)
    cross = np.sqrt(np.linalg.eigvalsh(root @ b.covariance @ root).clip(0)).sum()
    return float(np.square(a.mean - b.mean).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def polynomial_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(<x, y> / D + 1)^3 for all pairs, KID's kernel (Binkowski et al. 2018, arXiv 1801.01401 §4)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """KID: the unbiased squared MMD under the cubic kernel, of all of the features at once (no subsets)."""
    kernels = polynomial_kernel(a, a), polynomial_kernel(b, b)
    within = sum((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in kernels)
    return float(within - 2 * polynomial_kernel(a, b).mean())


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each pair of uint8 images, [N]; inf for equal ones."""
    error = np.square(a.astype(np.float64) - b.astype(np.float64)).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / error)


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al. 2004: Gaussian window of 11, sigma 1.5) of each pair of uint8 images, [N]."""
    a, b = (channels_first(images).float() for images in (a, b))
    values = structural_similarity_index_measure(a, b, data_range=255.0, reduction="none")
    return torch.atleast_1d(values).double().numpy()


def text_ranks(images: np.ndarray, texts: np.ndarray, among: int = 100) -> np.ndarray:
    """How many of `among` captions score higher with image i than its own does, [M]: 0 is a hit at rank 1.

    Images [N, D] and captions [N, D] are unit vectors in the same order. Consecutive groups of `among` are searched; a
    last group that is not full is dropped (M = N - N % among), or taken when it is the only one. Equal captions tie.
    """
    groups = max(1, len(images) // among)
    ranks = []
    for group in range(groups):
        part = slice(group * among, (group + 1) * among)
        scores = images[part] @ texts[part].T
        ranks.append((scores > scores.diagonal()[:, None] + 1e-6).sum(1))
    return np.concatenate(ranks)


def class_scores(probabilities: np.ndarray, draws: np.ndarray | None = None) -> np.ndarray:
    """exp of the mean KL(p(y | x) || p(y)), the Inception Score's formula (Salimans et al. 2016), [B].

    probabilities [N, C]; draws [B, N]: how often each image counts; None: once. 1 when uniform, C at best.
    """
    draws = np.ones((1, len(probabilities))) if draws is None else draws
    weights = draws / draws.sum(1, keepdims=True)

    def entropy(p: np.ndarray) -> np.ndarray:
        return -(p * np.log(p.clip(1e-12))).sum(1)

    return np.exp(entropy(weights @ probabilities) - weights @ entropy(probabilities))


def within_manifold(points: np.ndarray, of: np.ndarray, k: int = 3) -> np.ndarray:
    """Whether each of `points` [N, D] lies within the k-nearest-neighbour radius of any of `of` [M, D], bool [N].

    Its mean is precision (generated within real) or recall (real within generated): Kynkaanniemi et al. 2019.
    """
    of, points = torch.from_numpy(of).double(), torch.from_numpy(points).double()
    radii = torch.cat([torch.cdist(part, of).kthvalue(k + 1).values for part in of.split(512)])  # itself is the first
    return torch.cat([(torch.cdist(part, of) <= radii).any(1) for part in points.split(512)]).numpy()
