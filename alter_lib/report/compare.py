"""One offline page that compares runs: verdicts, figures, parameters that differ, masks, losses, the front, pictures.

python run_all.py --compare runs/a runs/b [...]
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import plots
from ..common.files import write_text
from ..evaluation import EvaluationResult
from ..params import Params, ParamsError, load_params
from ..plan import ExpertPlan
from .build import facts
from .cells import data_uri
from .findings import Figures, Finding, findings, key_figures
from .page import read_json, render

PICTURES = 6  # of a method, in a row


@dataclass(frozen=True)
class Run:
    """A run folder and what lies in it. Raises ParamsError where it is none."""

    folder: Path
    params: Params = field(init=False)

    def __post_init__(self) -> None:
        path = self.folder / "params.yaml"
        if not path.is_file():
            raise ParamsError([f"--compare: {self.folder} is no run folder: it has no params.yaml"])
        object.__setattr__(self, "params", load_params(path.absolute()))

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return (read_json(self.folder / "metrics.json") or {}).get("metrics", [])

    @property
    def findings(self) -> list[Finding]:
        return findings(self.params, read_json(self.folder / "alter" / "plan.json"), self.metrics)

    @cached_property
    def plan(self) -> ExpertPlan | None:
        return ExpertPlan.load(self.folder / "alter") if (self.folder / "alter" / "plan.json").exists() else None

    @cached_property
    def result(self) -> EvaluationResult | None:
        return EvaluationResult.load(self.folder) if (self.folder / "metrics.json").exists() else None

    @cached_property
    def history(self) -> pd.DataFrame | None:
        path = self.folder / "history.csv"
        return pd.read_csv(path) if path.exists() else None


def build_comparison(folders: Sequence[Path]) -> Path:
    """Write compare-A-B.html beside the first of the run folders; returns its path.

    Raises ParamsError, one line a fault, where a folder holds no run, two bear the same name, or there is one only.
    """
    runs = [Run(Path(folder).resolve()) for folder in folders]
    names = [run.name for run in runs]
    if len(set(names)) < max(2, len(names)):
        raise ParamsError([f"--compare: needs two runs or more of different names, got {', '.join(names)}"])
    path = runs[0].folder.parent / f"compare-{'-'.join(names)}.html"
    links = [quote(os.path.relpath(run.folder / "report.html", path.parent)) for run in runs]
    page = render(
        "compare.html.j2",
        names=names,
        runs=[{"name": name, "href": href} for name, href in zip(names, links, strict=True)],
        notes=list(cautions(runs)),
        verdicts=verdicts(runs),
        figures=all_figures(runs),
        parameters=list(differing(runs)),
        pictures=list(pictures(runs)),
        facts=list(all_facts(runs)),
    )
    write_text(path, page)
    return path


def cautions(runs: Sequence[Run]) -> Iterator[str]:
    """Why figures of these runs must not be compared, where that is so."""
    counts = {m["n"] for run in runs for m in run.metrics if m["name"] == "fid_alexnet"}
    if len(counts) > 1:
        yield f"FID-AlexNet was measured at N = {', '.join(map(str, sorted(counts)))}: not comparable."
    costs = {(r.plan.cost.convention, r.plan.cost.resolution, r.plan.cost.total) for r in runs if r.plan}
    if len(costs) > 1:
        yield "MACs were counted of different networks, at different resolutions or by different conventions."


def verdicts(runs: Sequence[Run]) -> list[tuple[str, list[Finding | None]]]:
    """A row a question, with each run's finding; None: the run has none."""
    found = [{finding.question: finding for finding in run.findings} for run in runs]
    questions = dict.fromkeys(question for each in found for question in each)
    return [(question, [each.get(question) for each in found]) for question in questions]


def all_figures(runs: Sequence[Run]) -> Figures:
    """The key figures of all runs, a column more for the run's name."""
    tables = {run.name: figures for run in runs if (figures := key_figures(run.metrics))}
    columns = list(dict.fromkeys(column for figures in tables.values() for column in figures.columns[1:]))
    rows = []
    for name, figures in tables.items():
        for first, *cells in figures.rows:
            known = dict(zip(figures.columns[1:], cells, strict=True))
            rows.append((name, first, *(known.get(column, "") for column in columns)))
    return Figures(("run", "method", *columns), tuple(rows))


def differing(runs: Sequence[Run]) -> Iterator[tuple[str, ...]]:
    dumps = [run.params.dump() for run in runs]
    for section in dumps[0]:
        for key in dumps[0][section]:
            values = [str(dump[section][key]) for dump in dumps]
            if len(set(values)) > 1 and (section, key) not in (("run", "name"), ("run", "out")):
                yield f"{section}.{key}", *values


def all_facts(runs: Sequence[Run]) -> Iterator[tuple[str, ...]]:
    found = [dict(facts(read_json(run.folder / "provenance.json") or {})) for run in runs]
    for key in dict.fromkeys(key for each in found for key in each):
        yield key, *(each.get(key, "") for each in found)


# --- pictures ---------------------------------------------------------------------------------------------------


def pictures(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """Sections of pictures, for whatever at least one of the runs (a curve: two) has."""
    if planned := [run for run in runs if run.plan]:
        yield section("Masks and routing", *((plots.overview(run.plan), run.name) for run in planned))
    if histories := {run.name: run.history for run in runs if run.history is not None}:
        ends = {run.name: run.params.training.hypernetwork_steps for run in runs}
        yield section("Losses (paper Fig. 5)", (plots.loss_comparison(histories, ends), ""))
    if results := {run.name: run.result for run in runs if run.result}:
        yield section("Quality against MACs", (plots.quality_front(results), ""))
        if drawn := same_seeds(results):
            yield section("The same prompts and seeds", (plots.image_rows(drawn, captions(results)), ""))


def section(title: str, *drawn: tuple[Figure | Axes | np.ndarray, str]) -> dict[str, Any]:
    """drawn: (figure or axes, caption)."""
    embedded = []
    for each, caption in drawn:
        figure = each if isinstance(each, Figure) else np.ravel(each)[0].figure
        uri = data_uri("image/png", plots.png(figure))
        embedded.append((uri, plots.style.description(figure) or title, caption))
    return {"title": title, "pictures": embedded}


def captions(results: dict[str, EvaluationResult]) -> tuple[str, ...]:
    return next(iter(results.values())).grid.prompts[:PICTURES]


def same_seeds(results: dict[str, EvaluationResult]) -> dict[str, np.ndarray]:
    """{row: pictures}: of the unpruned network of the first run, and of each run's ALTER; none for other prompts."""
    grids = {name: result.grid for name, result in results.items()}
    if len({grid.prompts[:PICTURES] for grid in grids.values()}) > 1:
        return {}
    first = next(iter(grids.values()))
    rows = {method.replace("teacher@", "unpruned, steps: "): images
            for method, images in first.images.items() if method.startswith("teacher")}  # fmt: skip
    for name, grid in grids.items():
        rows |= {method.replace("alter@", f"{name}, steps: "): images
                 for method, images in grid.images.items() if method.startswith("alter")}  # fmt: skip
    return {row: images[:PICTURES] for row, images in rows.items()}
