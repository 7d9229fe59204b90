"""The paper's own metrics at scale: FID, KID, IS, sFID, precision, recall, CLIP score, CMMD, preference scores.

Every extractor is opened before anything is drawn; what can't be is listed (`missing`), and nothing stands in for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..params import Evaluation
from . import bootstrap
from .clip import Clip, Cmmd
from .extractors import AlexNet, Extractor, Images, extract
from .hpsv2 import HpsV2
from .image_reward import ImageReward
from .inception import Inception, LegacyInception
from .influence import cmmd_influence, frechet_influence, kid_influence, linear_replicates
from .metrics import Moments, class_scores, within_manifold
from .prompts import PromptList
from .reference import Reference, load_reference
from .resizing import describe
from .result import Metric, Missing
from .weights import Unavailable

OF_EXTRACTOR: dict[Callable[..., Extractor], tuple[str, ...]] = {
    Inception: ("fid", "kid", "inception_score", "precision", "recall", "sfid"),
    LegacyInception: ("fid_legacy_pytorch",),
    AlexNet: ("fid_alexnet", "kid_alexnet"),
    Clip: ("clip_score",),
    Cmmd: ("cmmd",),
    HpsV2: ("hpsv2",),
}
WITHOUT_REFERENCE = {"inception_score", "clip_score", "hpsv2", "image_reward"}
SPLIT = 5000  # images an Inception Score is taken of, as the ADM evaluator's; the mean over splits
UNITS = {"clip_score": "100 x cosine", "hpsv2": "100 x cosine", "precision": "share", "recall": "share"}
Figure = tuple[float, np.ndarray]  # value, replicates [B]


@dataclass(frozen=True)
class RealFeatures:
    """Features [M, ...] of the real images by name."""

    parts: dict[str, np.ndarray]
    reference: Reference
    with_statistics: bool  # whether the reference's own are of this extractor

    def moments(self, part: str) -> Moments:
        own = self.reference.moments(part) if self.with_statistics else None
        return own or Moments.of(self.parts[part])


@dataclass
class Open:
    """An extractor that works, the metrics that are wanted of it, and what it makes of the real images."""

    extractor: Extractor
    metrics: list[str]
    real: RealFeatures | None = None


class ScaleJudge:
    """Judges image sets of one prompt list; every set is in the list's order."""

    def __init__(self, evaluation: Evaluation, prompts: PromptList | None, device: torch.device | str) -> None:
        self.evaluation, self.prompts, self.device = evaluation, prompts, device
        self.missing: list[Missing] = []
        self.reference = self._try(
            lambda: load_reference(evaluation, prompts), [m for m in evaluation.metrics if m not in WITHOUT_REFERENCE]
        )
        self.open: list[Open] = []
        for make, names in OF_EXTRACTOR.items():
            if wanted := [name for name in names if name in evaluation.metrics]:
                arguments = (device,) if make is AlexNet else (evaluation, device)
                extractor = self._try(lambda make=make, arguments=arguments: make(*arguments), wanted)
                able = [name for name in wanted if self.reference or name in WITHOUT_REFERENCE]
                self.open += [Open(extractor, able)] if extractor and able else []
        wants_reward = "image_reward" in evaluation.metrics
        self.reward = self._try(lambda: ImageReward(evaluation), ["image_reward"]) if wants_reward else None

    def _try(self, make: Callable[[], Any], metrics: Sequence[str]) -> Any:
        """What `make` makes, or None and a line in `missing`."""
        if not metrics:
            return None
        try:
            return make()
        except Unavailable as fault:
            self.missing += [Missing(tuple(metrics), *need) for need in fault.needs]
            return None

    @cached_property
    def captions(self) -> list[str] | list[int]:
        """What each image is drawn from."""
        return self.prompts.repeated(self.evaluation.images_per_prompt)

    def draws(self, of_prompts: int) -> np.ndarray:
        """How often each image is drawn, [B, N]: prompts are resampled, with all of their images."""
        draws = bootstrap.resamples(of_prompts, self.evaluation.bootstrap, self.evaluation.seed)
        return np.repeat(draws, self.evaluation.images_per_prompt, axis=1)

    def measure(self, images: Images, common: dict[str, Any]) -> list[Metric]:
        """All figures of one set. common: the fields that they share (method, steps, seed, ...)."""
        found, name = [], f"{common['method']}-{common['steps']}"
        draws = self.draws(len(images) // self.evaluation.images_per_prompt)
        for each in self.open:
            features = extract(each.extractor, images, name)
            figures = {metric: self.figure(metric, each, features, draws) for metric in each.metrics}
            found += [self._metric(m, figure, each.extractor, len(images), common) for m, figure in figures.items()]
        if self.reward:
            scores = self.reward.scores(images, self.captions)
            figure = float(scores.mean()), bootstrap.mean_replicates(scores, draws)
            found.append(self._metric("image_reward", figure, self.reward, len(images), common))
        return found

    def _metric(self, name: str, figure: Figure, extractor: Extractor, n: int, common: dict[str, Any]) -> Metric:
        value, replicates = figure
        resize = f"{describe(self.evaluation.resolution, self.evaluation.resize)}; {extractor.resize}"
        made = Metric(name, value=value, n=n, interval=bootstrap.interval(replicates), unit=UNITS.get(name, ""),
                      extractor=extractor.name, weights=extractor.weights or None, resize=resize, **common)  # fmt: skip
        if name in WITHOUT_REFERENCE:
            return made
        real, part = self.reference, {"fid": "pool", "sfid": "spatial"}.get(name)
        source = "its own statistics" if part and real.moments(part) else f"{len(real)} images"
        return replace(made, reference=f"{real.name} ({source}, {real.digest})")

    def real(self, each: Open) -> RealFeatures:
        """The real images' features, extracted once."""
        if each.real is None:
            parts = extract(each.extractor, self.reference, "real images")
            each.real = RealFeatures(parts, self.reference, isinstance(each.extractor, Inception))
        return each.real

    def figure(self, metric: str, each: Open, features: dict[str, np.ndarray], draws: np.ndarray) -> Figure:
        """One metric's value and bootstrap replicates."""
        if metric in ("clip_score", "hpsv2"):
            cosines = 100 * (features["image"] * each.extractor.texts(self.captions)).sum(1, dtype=np.float64)
            return float(cosines.mean()), bootstrap.mean_replicates(cosines, draws)
        if metric == "inception_score":
            return inception_score(features["probabilities"], draws)
        real = self.real(each)
        if metric in ("precision", "recall"):
            return manifold_share(metric, features["pool"], real.parts["pool"], draws, self.evaluation)
        if metric.startswith(("fid", "sfid")):
            part = "spatial" if metric == "sfid" else "pool"
            value, influence = frechet_influence(real.moments(part), features[part].astype(np.float64))
        else:
            distance, part = (cmmd_influence, "image") if metric == "cmmd" else (kid_influence, "pool")
            value, influence = distance(*(x[part].astype(np.float64) for x in (real.parts, features)))
        return value, linear_replicates(value, influence, draws)


def inception_score(probabilities: np.ndarray, draws: np.ndarray) -> Figure:
    """Mean over splits of 5000 images; the spread is that of all images at once."""
    p = probabilities.astype(np.float64)
    splits = [float(class_scores(p[first : first + SPLIT])[0]) for first in range(0, len(p), SPLIT)]
    value = float(np.mean(splits))
    return value, bootstrap.centred(value, class_scores(p, draws))


def manifold_share(
    metric: str, features: np.ndarray, real: np.ndarray, draws: np.ndarray, evaluation: Evaluation
) -> Figure:
    """Precision: the share of images within the real manifold; recall: of real images within theirs, resampled over the
    real images (Kynkaanniemi et al. 2019, k = 3)."""
    points, of = (features, real) if metric == "precision" else (real, features)
    inside = within_manifold(points, of).astype(float)
    if metric == "recall":
        draws = bootstrap.resamples(len(real), evaluation.bootstrap, evaluation.seed)
    return float(inside.mean()), bootstrap.mean_replicates(inside, draws)
