"""report.html of a run: one offline page, the summary first, then every executed notebook. Nothing is loaded from
elsewhere and nothing runs (a Content-Security-Policy says so to the browser); at most 15 MB."""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import yaml
from jinja2 import Environment
from PIL import Image

from . import report_cells
from .params import Params
from .progress import clock
from .provenance import write_text
from .report_findings import figure, findings, key_figures

LIMIT = 15_000_000  # bytes of the page
TEMPLATE = Path(__file__).with_name("report.html.j2")


def build_report(params: Params, stale: Mapping[str, str] | None = None) -> Path:
    """Write runs/<name>/report.html from what lies in the run folder; returns its path.

    Args:
        stale: {stem of a notebook: why its executed copy is out of date}, said on the page.
    """
    folder, stale = params.run_folder, stale or {}
    provenance = _json(folder / "provenance.json") or {}
    metrics = (_json(folder / "metrics.json") or {}).get("metrics", [])
    plan = _json(folder / "alter" / "plan.json")
    executed = sorted(path for path in (folder / "notebooks").glob("*.ipynb") if ".partial" not in path.suffixes)
    seconds = provenance.get("wall_seconds", {})
    page = _template().render(
        name=params.run.name,
        code_style=report_cells.CODE_STYLE,
        notes=[f"{stem} is not up to date ({reason}): figures below may be of other parameters or code."
               for stem, reason in stale.items() if any(path.stem == stem for path in executed)],
        findings=findings(params, plan, metrics),
        figures=key_figures(metrics),
        metrics=metrics,
        metric_columns=list(dict.fromkeys(key for metric in metrics for key in metric)),
        facts=_facts(provenance),
        params=yaml.safe_dump(params.dump(), sort_keys=False, allow_unicode=True),
        notebooks=[_notebook(path, seconds.get(path.stem), stale.get(path.stem)) for path in executed],
    )  # fmt: skip
    write_text(folder / "report.html", fit(page))
    return folder / "report.html"


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _template() -> Any:
    environment = Environment(autoescape=True, trim_blocks=False)
    environment.filters["figure"] = figure
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _notebook(path: Path, seconds: float | None, stale: str | None) -> dict[str, Any]:
    content = nbformat.read(path, as_version=4)
    heading = re.search(r"^# (.+)$", "\n".join(c.source for c in content.cells if c.cell_type == "markdown"), re.M)
    title = heading.group(1) if heading else path.stem
    cells = list(map(report_cells.cell, content.cells))
    return {"stem": path.stem, "title": title, "cells": cells, "stale": stale, "seconds": seconds and clock(seconds)}


def _facts(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What made the run, as rows of a table."""
    hardware, commit = provenance.get("hardware", {}), provenance.get("commit")
    state = f"{commit}{' with uncommitted changes' if provenance.get('dirty') else ''}" if commit else "no git checkout"
    facts = {
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
    return [(key, str(value)) for key, value in facts.items() if value]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def fit(page: str, limit: int = LIMIT) -> str:
    """`page` within `limit` bytes: its largest PNGs turn into WebP, and what is still too large is left out, with a
    line that says so."""
    for shrink in (_as_webp, _left_out):
        for uri in _largest(page):
            if len(page.encode()) <= limit:
                return page
            page = page.replace(uri, shrink(uri))
    return page


def _largest(page: str) -> Sequence[str]:
    return sorted(set(re.findall(r"data:image/(?:png|jpeg|webp);base64,[A-Za-z0-9+/=]+", page)), key=len, reverse=True)


def _as_webp(uri: str) -> str:
    target = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))).save(target, "WEBP", quality=80)
    small = report_cells.data_uri("image/webp", target.getvalue())
    return min(uri, small, key=len)


def _left_out(uri: str) -> str:
    text = '<text y="20" font-size="14">A picture was left out to keep this page small: see the notebook.</text>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="560" height="30">{text}</svg>'
    return report_cells.data_uri("image/svg+xml", svg)
