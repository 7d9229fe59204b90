"""report.html of a run: one offline page, five plain answers first, then figures, files and every executed notebook.
Nothing is loaded from elsewhere; at most 15 MB."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import yaml

from ..common.files import write_text
from ..params import Params
from ..plan import ExpertPlan
from ..run_folder.progress import clock
from .answers import answers
from .cells import cell
from .findings import Finding, figure, findings, key_figures
from .page import read_json, render

FILES = {  # in this order: what a pattern's files are
    "alter/plan.json": "the plan: masks, routing, costs",
    "alter/README.md": "model card of the pruned pipeline",
    "metrics.json": "every figure, with unit, N, seed and interval",
    "history.csv": "losses, ratio and speed of every training step",
    "params.yaml": "all parameters, as they were used",
    "provenance.json": "commit, versions, machine, seeds, times",
    "notebooks/*.ipynb": "executed notebook",
}


@dataclass(frozen=True)
class File:
    """A link to a file of the run folder."""

    name: str
    href: str
    what: str
    kilobytes: str


def build_report(params: Params, stale: Mapping[str, str] | None = None) -> Path:
    """Write runs/<name>/report.html from what lies in the run folder; returns its path. stale: {stem of a notebook: why
    its executed copy is out of date}, said on the page."""
    folder = params.run_folder
    provenance, evaluation = (read_json(folder / f"{name}.json") or {} for name in ("provenance", "metrics"))
    metrics, plan = evaluation.get("metrics", []), read_json(folder / "alter" / "plan.json")
    notebooks, judged = executed(folder / "notebooks", provenance, stale or {}), findings(params, plan, metrics)
    columns = list(dict.fromkeys(key for metric in metrics for key in metric))
    page = render(
        "report.html.j2",
        name=params.run.name,
        notes=[*out_of_date({each["stem"]: each["stale"] for each in notebooks if each["stale"]}),
               *(f"Warning: {line}." for line in provenance.get("warnings", []))],
        answers=answers(params, ExpertPlan.load(folder / "alter"), metrics) if plan else [],
        findings=judged,
        counts=counted(judged),
        headline=headline(params, provenance),
        figures=key_figures(metrics),
        metrics=[[figure(metric.get(column)) for column in columns] for metric in metrics],
        metric_columns=columns,
        evaluation_notes=evaluation.get("notes", []),
        facts=facts(provenance),
        params=yaml.safe_dump(params.dump(), sort_keys=False, allow_unicode=True),
        artefacts=list(files(folder)),
        pictures=list(pictures(folder / "figures")),
        notebooks=notebooks,
    )  # fmt: skip
    write_text(folder / "report.html", page)
    return folder / "report.html"


def out_of_date(stale: Mapping[str, str]) -> Iterator[str]:
    """A line a reason, with the notebooks that it concerns."""
    for reason in dict.fromkeys(stale.values()):
        stems = ", ".join(stem for stem, each in stale.items() if each == reason)
        yield f"Not up to date ({reason}): {stems}. Figures below may be of other parameters or code."


def headline(params: Params, provenance: Mapping[str, Any]) -> str:
    """What ran, on what, when and how long, in one line."""
    hardware, seconds = provenance.get("hardware"), provenance.get("wall_seconds", {})
    where = f" on {', '.join(hardware['gpus']) or hardware['cpu']}, {hardware['cores']} cores" if hardware else ""
    total = sum(value for stem, value in seconds.items() if stem[:2].isdigit())
    total += max(0.0, seconds.get("training", 0.0) - seconds.get("03_training", 0.0))  # what the notebook found there
    return f"Backbone {params.backbone.id}{where}, {provenance.get('date', '')[:10]}, {clock(total)} in all."


def counted(judged: Sequence[Finding]) -> str:
    """ "2 aims reached, 0 missed; 1 left open (no target, or the figures don't decide)."."""
    if not judged:
        return "nothing to judge yet."
    number = Counter(finding.verdict for finding in judged)
    left = f"; {number['open']} left open (no target, or the figures don't decide)" if number["open"] else ""
    return f"{number['reached']} reached, {number['missed']} missed{left}."


def pictures(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Stem of each figure, and the links to its png and pdf."""
    for path in sorted(folder.glob("*.png")):
        yield path.stem, quote(path.name), quote(path.with_suffix(".pdf").name)


def files(folder: Path) -> Iterator[File]:
    for pattern, what in FILES.items():
        for path in sorted(folder.glob(pattern)):
            name = path.relative_to(folder).as_posix()
            yield File(name, quote(name), what, f"{path.stat().st_size / 1000:,.1f}")


def executed(folder: Path, provenance: Mapping[str, Any], stale: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every notebook that ran to its end, in order."""
    paths = sorted(path for path in folder.glob("*.ipynb") if ".partial" not in path.suffixes)
    seconds = provenance.get("wall_seconds", {})
    return [_notebook(path, seconds.get(path.stem), stale.get(path.stem)) for path in paths]


def _notebook(path: Path, seconds: float | None, stale: str | None) -> dict[str, Any]:
    content = nbformat.read(path, as_version=4)
    heading = re.search(r"^# (.+)$", "\n".join(c.source for c in content.cells if c.cell_type == "markdown"), re.M)
    title = heading.group(1) if heading else path.stem
    cells = list(map(cell, content.cells))
    return {"stem": path.stem, "title": title, "cells": cells, "stale": stale, "seconds": seconds and clock(seconds)}


def facts(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What made the run, as rows of a table."""
    hardware, commit = provenance.get("hardware", {}), provenance.get("commit")
    state = f"{commit}{' with uncommitted changes' if provenance.get('dirty') else ''}" if commit else "no git checkout"
    found = {
        "command": provenance.get("command"),
        "source": state,
        "date": provenance.get("date"),
        "machine": f"{hardware.get('cpu')}, {hardware.get('cores')} cores, {hardware.get('os')}" if hardware else None,
        "GPUs": ", ".join(hardware.get("gpus", [])) or "none",
        "device": provenance.get("device"),
        "seeds": _pairs(provenance.get("seeds", {})),
        "versions": _pairs(provenance.get("versions", {})),
        "wall time": ", ".join(f"{name} {clock(s)}" for name, s in provenance.get("wall_seconds", {}).items()),
    }
    return [(key, str(value)) for key, value in found.items() if value]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
