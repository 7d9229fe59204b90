"""Judges sets of images on one protocol: FID-AlexNet, KID-AlexNet, and the proxy text scores (captions) or the
classifier's figures (class labels), each with its interval."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..params import Evaluation
from . import bootstrap
from .features import (
    CLASSIFIER,
    EXTRACTOR,
    PROXY,
    SPATIAL,
    class_features,
    classify,
    image_embeddings,
    image_features,
    spatial_features,
    text_embeddings,
)
from .kept_features import kept
from .lpips import NAME as LPIPS
from .lpips import lpips
from .metrics import (
    HIGHEST_PSNR,
    Moments,
    class_scores,
    frechet_distance,
    kernel_distance,
    psnr,
    ssim,
    text_ranks,
    within_manifold,
)
from .protocol import Protocol
from .result import Metric


@dataclass(frozen=True)
class Measured:
    """The figures of one set of images, and the FID-AlexNet replicates [B] that pair it with other sets."""

    metrics: tuple[Metric, ...]
    fid_replicates: np.ndarray

    @property
    def fid(self) -> Metric:
        return next(metric for metric in self.metrics if metric.name == "fid_alexnet")


class Judge:
    """Holds what all sets are measured against; every set is in the order of the protocol's prompts. folder: where the
    features of the reference pictures are kept for the next evaluation."""

    def __init__(self, protocol: Protocol, evaluation: Evaluation, sampling_seed: int, folder: Path):
        self.protocol, self.evaluation, self.sampling_seed, self.folder = protocol, evaluation, sampling_seed, folder
        self.reference = kept(image_features, protocol.reference, folder)
        self.moments = Moments.of(self.reference)
        self.texts = None if protocol.has_classes else text_embeddings(list(protocol.prompts))

    @cached_property
    def spatial_moments(self) -> Moments:
        return Moments.of(kept(spatial_features, self.protocol.reference, self.folder))

    @cached_property
    def reference_classes(self) -> np.ndarray:
        """Features [M, 96] of the reference pictures by the embedded classifier."""
        return kept(class_features, self.protocol.reference, self.folder)

    def draws(self, n: int) -> np.ndarray:
        return bootstrap.resamples(n, self.evaluation.bootstrap, self.evaluation.seed)

    def measure(self, images: np.ndarray, method: str, steps: int | None = None) -> Measured:
        """All figures of `images` [N, H, W, 3]; steps None: pictures that no sampler made."""
        features = image_features(images)
        replicates = np.fromiter(bootstrap.frechet_replicates(self.moments, features, self.draws(len(images))), float)
        fid = frechet_distance(self.moments, Moments.of(features))
        kid = kernel_distance(self.reference, features)
        kid_replicates = bootstrap.kernel_replicates(self.reference, features, self.draws(len(images)))
        common = dict(method=method, steps=steps, seed=None if steps is None else self.sampling_seed)
        distances = [
            Metric(name, value=value, n=len(images), extractor=EXTRACTOR, **common,
                   interval=bootstrap.interval(bootstrap.centred(value, repeated)))
            for name, value, repeated in (("fid_alexnet", fid, replicates), ("kid_alexnet", kid, kid_replicates))
        ]  # fmt: skip
        of_condition = self._classes(images, common) if self.protocol.has_classes else self._text(images, common)
        return Measured((*distances, *of_condition), replicates)

    def _text(self, images: np.ndarray, common: dict) -> list[Metric]:
        """100 x cosine (as CLIP score counts it) and retrieval of the own caption among 100, by the proxy."""
        vectors = image_embeddings(images)
        ranks = text_ranks(vectors, self.texts)
        values = {
            ("proxy_text_score", "100 x cosine"): 100 * (vectors * self.texts).sum(1).astype(np.float64),
            ("proxy_r1", "share"): (ranks < 1).astype(float),
            ("proxy_r5", "share"): (ranks < 5).astype(float),
        }
        return [self.mean(name, value, unit=unit, extractor=PROXY, **common) for (name, unit), value in values.items()]

    def _classes(self, images: np.ndarray, common: dict) -> list[Metric]:
        """What Table 4 reports, by the embedded classifier in place of Inception, and the share of images that it takes
        for the class asked for."""
        probabilities, features = classify(images)
        reference = self.reference_classes
        draws, common = self.draws(len(images)), common | {"extractor": CLASSIFIER}
        hits = (probabilities.argmax(1) == np.asarray(self.protocol.prompts)).astype(float)
        score = bootstrap.interval(class_scores(probabilities, draws))
        precision, recall = within_manifold(features, reference), within_manifold(reference, features)
        spatial = self._spatial(images, draws, {key: value for key, value in common.items() if key != "extractor"})
        return [
            self.mean("class_accuracy", hits, unit="share", **common),
            Metric(
                "classifier_score", value=float(class_scores(probabilities)[0]), n=len(images), interval=score, **common
            ),
            self.mean("classifier_precision", precision.astype(float), unit="share", **common),
            # its interval is over the reference pictures, as at scale
            replace(self.mean("classifier_recall", recall.astype(float), unit="share", **common), n=len(images)),
            spatial,
        ]

    def _spatial(self, images: np.ndarray, draws: np.ndarray, common: dict) -> Metric:
        """sFID on AlexNet: the Frechet distance of features that keep their positions (Nash et al. 2021)."""
        features = spatial_features(images)
        value = frechet_distance(self.spatial_moments, Moments.of(features))
        replicates = np.fromiter(bootstrap.frechet_replicates(self.spatial_moments, features, draws), float)
        interval = bootstrap.interval(bootstrap.centred(value, replicates))
        return Metric("sfid_alexnet", value=value, n=len(images), interval=interval, extractor=SPATIAL, **common)

    def deviation(self, images: np.ndarray, teacher: np.ndarray, against: str, method: str, steps: int) -> list[Metric]:
        """PSNR, SSIM and LPIPS to the teacher's pictures at the same prompts and seeds (paper Table 8)."""
        common = dict(method=method, steps=steps, seed=self.sampling_seed, against=against)
        return [
            self.mean("psnr_to_teacher", np.minimum(psnr(images, teacher), HIGHEST_PSNR), unit="dB", **common),
            self.mean("ssim_to_teacher", ssim(images, teacher), **common),
            self.mean("lpips_to_teacher", lpips(images, teacher), extractor=LPIPS, **common),
        ]

    def mean(self, name: str, values: np.ndarray, **fields: Any) -> Metric:
        """The mean of `values` [n] as a figure with its interval."""
        replicates = bootstrap.mean_replicates(values, self.draws(len(values)))
        return Metric(
            name, value=float(values.mean()), n=len(values), interval=bootstrap.interval(replicates), **fields
        )


def fid_ratio(a: Measured, b: Measured) -> Metric:
    """FID-AlexNet of `a` over that of `b`, with the paired interval. Both at the same prompts."""
    pair = bootstrap.ratio_interval(a.fid.value, a.fid_replicates, b.fid.value, b.fid_replicates)
    return Metric("fid_alexnet_ratio", a.fid.method, a.fid.value / b.fid.value, a.fid.steps, a.fid.n, a.fid.seed, pair,
                  extractor=EXTRACTOR, against=f"{b.fid.method}@{b.fid.steps}")  # fmt: skip
