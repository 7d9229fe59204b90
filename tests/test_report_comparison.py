"""The page that compares runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from report_content import METRICS, SMALL, metric, outside

from alter_lib import provenance
from alter_lib.evaluation.result import Grid
from alter_lib.params import ParamsError, load_params
from alter_lib.report.compare import build_comparison


def write_run(folder: Path, steps: int, metrics: list[dict[str, Any]]) -> Path:
    params = load_params("params/smoke.yaml", {"training.steps": steps})  # a folder may be renamed
    provenance.write_text(folder / "params.yaml", yaml.safe_dump(params.dump()))
    SMALL.save(folder / "alter")
    (folder / "metrics.json").write_text(json.dumps({"metrics": metrics, "notes": []}))
    Grid(("a", "b"), {"alter@20": np.zeros((2, 4, 4, 3), np.uint8)}, {"alter@20": [5.0]}).save(folder / "grid.npz")
    return folder


def scored(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With what the front needs: both figures of quality, with intervals."""
    extra = [metric("proxy_text_score", method, 20, 70.0, interval=[69.0, 71.0], n=1000)
             for method in ("teacher", "alter")]  # fmt: skip
    return [{**m, "macs_convention": "linear+conv"} if m["name"] == "total_macs" else m for m in metrics] + extra


def test_comparison_sets_runs_side_by_side(tmp_path: Path):
    scores = {"value": 8.0, "interval": [7.9, 8.1], "n": 500}
    worse = [m | scores if (m["name"], m["method"]) == ("fid_alexnet", "alter") else m for m in METRICS]
    runs = [write_run(tmp_path / "a", 12, scored(METRICS)), write_run(tmp_path / "b<i>", 20, scored(worse))]
    path = build_comparison(runs)
    text = path.read_text()
    assert path == tmp_path / "compare-a-b<i>.html" and outside(text) == []
    assert '<td>training.steps</td><td class="number">12</td><td class="number">20</td>' in text
    assert "6 [5.9, 6.1]" in text and "8 [7.9, 8.1]" in text and "b&lt;i&gt;" in text and "b<i>" not in text
    assert "measured at N = 500, 1000: not comparable" in text
    assert text.count("data:image/png") == 4  # masks of both, the front, the pictures
    assert 'href="a/report.html"' in text and 'href="b%3Ci%3E/report.html"' in text


@pytest.mark.parametrize(("names", "fault"), [(["a"], "two runs or more"), (["a", "nothing"], "is no run folder")])
def test_what_is_no_pair_of_runs_is_one_line(tmp_path: Path, names: list[str], fault: str):
    write_run(tmp_path / "a", 12, [])
    with pytest.raises(ParamsError, match=fault):
        build_comparison([tmp_path / name for name in names])
    assert not list(tmp_path.glob("*.html"))
