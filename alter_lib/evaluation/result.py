"""What an evaluation hands back, and the metrics.json that it writes (design: runs/<name>/metrics.json)."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from ..common.files import whole, write_json


@dataclass(frozen=True)
class Metric:
    """One figure, with all that it depends on.

    interval: 95 %, or None where nothing was sampled; n: images (or timed calls) behind it; against: what a ratio or a
    deviation is relative to ("teacher@20"); macs_convention: which products a MAC figure counts; weights, prompts:
    hashes of the extractor's weights and the prompt list; resolution: px that the images were drawn at, or of the
    latents that MACs are counted at; spread: 10 % and 90 % quantiles of timed calls; dtype: of the weights that were
    timed; updates: of the backbone, on a learning curve.
    """

    name: str
    method: str
    value: float
    steps: int | None = None
    n: int | None = None
    seed: int | None = None
    interval: tuple[float, float] | None = None
    unit: str = ""
    extractor: str | None = None
    against: str | None = None
    macs_convention: str | None = None
    protocol: str | None = None
    prompts: str | None = None
    reference: str | None = None
    weights: str | None = None
    resolution: int | None = None
    resize: str | None = None
    sampler: str | None = None
    guidance_scale: float | None = None
    batch_size: int | None = None
    spread: tuple[float, float] | None = None
    device: str | None = None
    dtype: str | None = None
    updates: int | None = None

    @classmethod
    def of(cls, content: dict[str, Any]) -> Self:
        pairs = {key: tuple(content[key]) for key in ("interval", "spread") if content.get(key)}
        return cls(**content | pairs)


ON_IMAGES = "all that is measured on images"  # what lacks its figures for want of prompts


@dataclass(frozen=True)
class Missing:
    """Why figures are not there. metrics: names, or a method's; what: is missing; put: where it is looked for; get:
    where it comes from."""

    metrics: tuple[str, ...]
    what: str
    put: str
    get: str


@dataclass(frozen=True)
class Grid:
    """The same prompts and seeds by method: images[method] uint8 [n, H, W, 3], timesteps[method] of its calls."""

    prompts: tuple[str, ...]
    images: dict[str, np.ndarray]
    timesteps: dict[str, list[float]]

    def save(self, path: Path) -> None:
        calls = {f"timesteps/{method}": np.asarray(values) for method, values in self.timesteps.items()}
        with whole(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, prompts=np.asarray(self.prompts), **calls,
                                **{f"images/{method}": images for method, images in self.images.items()})  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> Self:
        with np.load(path) as arrays:

            def part(prefix: str) -> dict[str, np.ndarray]:
                return {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}

            calls = {method: values.tolist() for method, values in part("timesteps/").items()}
            return cls(tuple(arrays["prompts"].tolist()), part("images/"), calls)


@dataclass(frozen=True)
class EvaluationResult:
    """metrics: every figure; grid: pictures side by side, empty without any; folder: where metrics.json and grid.npz
    are; missing: what was skipped and why; artefact: hash of the weights and plan behind the figures at scale."""

    metrics: tuple[Metric, ...]
    grid: Grid
    folder: Path
    notes: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()
    artefact: str | None = None
    protocol: str = "embedded"

    def of_protocol(self) -> Self:
        """Without the figures of other protocols that were kept."""
        return replace(self, metrics=tuple(m for m in self.metrics if m.protocol in (None, self.protocol)))

    def frame(self) -> pd.DataFrame:
        """One row a figure."""
        return pd.DataFrame([asdict(metric) for metric in self.metrics])

    def value(self, name: str, method: str, steps: int | None = None, against: str | None = None) -> float:
        """The figure of that name. Raises KeyError when there is none."""
        return self.metric(name, method, steps, against).value

    def metric(self, name: str, method: str, steps: int | None = None, against: str | None = None) -> Metric:
        """The first figure that fits; steps or against None: any. Raises KeyError when there is none."""
        for metric in self.metrics:
            wanted = (steps in (None, metric.steps), against in (None, metric.against))
            if (metric.name, metric.method) == (name, method) and all(wanted):
                return metric
        raise KeyError(f"metrics: no {name} of {method} at {steps} steps" + (f" against {against}" if against else ""))

    def save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.grid.save(self.folder / "grid.npz")
        content = {"metrics": metrics_as_dicts(self.metrics), "notes": list(self.notes)}
        content |= {"missing": [asdict(each) for each in self.missing]} if self.missing else {}
        content |= {"artefact": self.artefact} if self.artefact else {}
        content |= {"protocol": self.protocol}
        write_json(self.folder / "metrics.json", content)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `evaluate` left in a run folder. Raises FileNotFoundError when it never ran there."""
        content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        metrics = tuple(Metric.of(metric) for metric in content["metrics"])
        missing = tuple(Missing(**each | {"metrics": tuple(each["metrics"])}) for each in content.get("missing", []))
        grid = Grid.load(folder / "grid.npz")
        return cls(
            metrics,
            grid,
            folder,
            tuple(content["notes"]),
            missing,
            content.get("artefact"),
            content.get("protocol", "embedded"),
        )

    def missing_frame(self) -> pd.DataFrame:
        """One row a thing that was not there: what, which figures it costs, where it is looked for and comes from."""
        of: dict[tuple[str, str, str], list[str]] = {}
        for each in self.missing:
            of.setdefault((each.what, each.put, each.get), []).extend(each.metrics)
        rows = [(what, ", ".join(metrics), put, get) for (what, put, get), metrics in of.items()]
        return pd.DataFrame(rows, columns=["needed", "for", "put it at", "from"])


def metrics_as_dicts(metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """Without the fields that say nothing."""
    return [{key: value for key, value in asdict(metric).items() if value not in (None, "")} for metric in metrics]
