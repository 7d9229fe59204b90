"""The notebooks: their form, and one real run of all of them on params/smoke.yaml (test_pages opens JupyterLab)."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import nbformat
import numpy as np
import papermill
import pytest
import yaml
from PIL import Image

from alter_lib.params import ROOT, Params, load_params
from alter_lib.run_folder.state import Notebook

SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
STEMS = [path.stem for path in SOURCES]
PARAMETERS = "\n".join(f"{name} = None" for name in Params.model_fields) + "\noverrides = {}"
WIDGET = "application/vnd.jupyter.widget-view+json"


def cells(path: Path, kind: str | None = None) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if kind in (None, cell.cell_type)]


DEFAULT = [path for path in SOURCES if not Notebook(path).on_request()]  # the others want to be named

each = pytest.mark.parametrize("path", SOURCES, ids=STEMS)
each_of_the_run = pytest.mark.parametrize("path", DEFAULT, ids=[path.stem for path in DEFAULT])


# --- form ---------------------------------------------------------------------------------------------------------


def test_the_notebooks_of_the_default_run_are_there() -> None:
    wanted = {"01_backbone", "02_hypernetwork", "03_training", "04_routing", "05_evaluation", "07_deployment"}
    assert wanted == {path.stem for path in DEFAULT} and {*STEMS} - wanted == {"06_ablations"}


@each
def test_valid_without_outputs_for_the_python3_kernel(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.id for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []


@each
def test_opens_with_a_question_and_the_papers_section(path: Path) -> None:
    first = cells(path)[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# .+\?$", first.source.splitlines()[0])
    assert re.search(r"paper §\d", first.source)


@each
def test_parameters_and_setup_are_the_same_everywhere(path: Path) -> None:
    code = cells(path, "code")
    assert [i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])] == [0]
    assert code[0].source == PARAMETERS
    assert code[1].source == cells(SOURCES[0], "code")[1].source


@each
def test_cells_are_short_and_hold_no_logic(path: Path) -> None:
    for cell in cells(path, "code"):
        assert len(cell.source.splitlines()) <= 15
        assert not re.search(r"^\s*(def|class|for|while|try|with)\b", cell.source, re.M), cell.source


@each
def test_uses_names_every_section_that_the_source_reads(path: Path) -> None:
    """What a rerun is decided by: a section that is read but not named would leave results stale."""
    read = set(re.findall(r"\bparams\.(\w+)", "\n".join(cell.source for cell in cells(path, "code"))))
    assert read & set(Params.model_fields) <= set(Notebook(path).uses())


@each
def test_figures_carry_the_number_of_their_notebook(path: Path) -> None:
    names = figure_names(path)
    assert names and len(set(names)) == len(names)
    assert all(name.startswith(path.stem[:3]) for name in names)


def figure_names(path: Path) -> list[str]:
    return re.findall(r'params, "(\w+)"\)', "\n".join(cell.source for cell in cells(path, "code")))


def test_text_names_no_notebook_that_is_not_there() -> None:
    numbers = {stem[:2] for stem in STEMS}
    for path in SOURCES:
        for cell in cells(path, "markdown"):
            assert set(re.findall(r"[Nn]otebook (\d\d)", cell.source)) <= numbers


# --- one run of all of them ---------------------------------------------------------------------------------------


def executed(run: Path, stem: str) -> list[nbformat.NotebookNode]:
    return cells(run / "notebooks" / f"{stem}.ipynb", "code")


def outputs(run: Path, stem: str) -> list[nbformat.NotebookNode]:
    return [output for cell in executed(run, stem) for output in cell.outputs]


def test_every_notebook_ran(smoke_run: tuple) -> None:
    run, done = smoke_run
    stems = [path.stem for path in DEFAULT]
    assert re.findall(r"\] (\w+) +done in", done.stdout) == stems
    for stem in stems:
        assert all(cell.execution_count for cell in executed(run, stem))
        assert not [output for output in outputs(run, stem) if output.output_type == "error"]
        assert (run / "notebooks" / f"{stem}.ipynb").stat().st_size < 1_000_000


@each_of_the_run
def test_every_figure_is_saved_and_shown(smoke_run: tuple, path: Path) -> None:
    run, _ = smoke_run
    shown = [output.data["image/png"] for output in outputs(run, path.stem) if "image/png" in output.get("data", {})]
    for name in figure_names(path):
        picture = Image.open(run / "figures" / f"{name}.png")
        assert picture.width > 1000 and np.asarray(picture.convert("L")).std() > 1
    assert len(shown) >= len(figure_names(path))


@each_of_the_run
def test_executed_notebooks_are_quiet(smoke_run: tuple, path: Path) -> None:
    """No hints and warnings of other libraries between the results."""
    streams = [o.text for o in outputs(smoke_run[0], path.stem) if o.output_type == "stream" and o.name == "stderr"]
    assert not [text for text in streams if "warn" in text.lower() or "torchvision" in text]


def test_training_leaves_one_picture_of_its_dashboard(smoke_run: tuple) -> None:
    live = [
        o for o in outputs(smoke_run[0], "03_training") if o.output_type == "display_data" and "image/png" in o.data
    ]
    assert len(live) == 1


def test_widgets_are_shown_with_a_static_picture(smoke_run: tuple) -> None:
    """In the same output, so that GitHub and the report show the picture, and JupyterLab the widget."""
    shown = [output.data for output in outputs(smoke_run[0], "04_routing") if WIDGET in output.get("data", {})]
    assert len(shown) == 2 and all("image/png" in data for data in shown)


def test_deployment_is_exact(smoke_run: tuple) -> None:
    text = "".join(o.text for o in outputs(smoke_run[0], "07_deployment") if o.output_type == "stream")
    assert "plan: active" in text and "bit-identical to the stock pipeline: True" in text


def test_results_and_report_are_there(smoke_run: tuple) -> None:
    run, _ = smoke_run
    for name in ("params.yaml", "provenance.json", "history.csv", "metrics.json", "alter/plan.json"):
        assert (run / name).is_file(), name
    report = (run / "report.html").read_text(encoding="utf-8")
    for path in DEFAULT:
        assert cells(path)[0].source.splitlines()[0].removeprefix("# ").replace("'", "&#39;") in report
    assert len(re.findall(r'src="data:image/', report)) >= sum(len(figure_names(path)) for path in DEFAULT)
    links = re.findall(r'(?:src|href)="(?!data:|#|https?://)([^"]*)"', report)
    assert links and all((run / unquote(link)).is_file() for link in links)


def test_a_rerun_executes_nothing(smoke_run: tuple, run_all) -> None:
    run, _ = smoke_run
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    began = time.monotonic()
    again = run_all(run.parent)
    assert again.returncode == 0 and time.monotonic() - began < 20
    assert re.findall(r"\] (\w+) +up to date", again.stdout) == [path.stem for path in DEFAULT]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before


def test_a_notebook_runs_by_papermill_alone_from_the_root(smoke_run: tuple, tmp_path: Path, monkeypatch) -> None:
    """`papermill notebooks/04_routing.ipynb OUT -f params/smoke.yaml`, the kernel in the repository root."""
    run, _ = smoke_run
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    sections = yaml.safe_load((ROOT / "params" / "smoke.yaml").read_text())
    parameters = {**sections, "overrides": {"run.out": str(run.parent)}}
    done = papermill.execute_notebook(
        ROOT / "notebooks" / "04_routing.ipynb", tmp_path / "out.ipynb", parameters, cwd=ROOT, progress_bar=False
    )
    assert load_params(sections, parameters["overrides"]).run_folder == run
    assert not [c for c in done.cells for o in c.get("outputs", []) if o.output_type == "error"]


def test_the_ablations_are_drawn_where_they_are_named(tmp_path: Path) -> None:
    """With whatever runs are finished, none included: every figure is there, and the table of what is left."""
    command = [sys.executable, "run_all.py", "--params", "params/smoke.yaml", "--out", str(tmp_path), "--only", "06"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in figure_names(ROOT / "notebooks" / "06_ablations.ipynb"):
        assert (tmp_path / "smoke" / "figures" / f"{name}.png").is_file()
    tables = [
        o.data["text/html"] for o in outputs(tmp_path / "smoke", "06_ablations") if "text/html" in o.get("data", {})
    ]
    assert any("command for the rest" in table for table in tables)


# --- the same notebooks on the other backbone ---------------------------------------------------------------------

FEW = {"run.name": "dit", "training.steps": 4, "training.hypernetwork_steps": 2, "training.checkpoint_every": 4,
       "training.warmup_steps": 1, "training.batch_size": 8, "evaluation.num_images": 10, "evaluation.steps": [4],
       "evaluation.teacher_steps": [6, 4, 2], "evaluation.teacher_results": None, "evaluation.bootstrap": 20,
       "sampling.steps": 4, "sampling.batch_size": 10, "backbone.device": "cpu"}  # fmt: skip


def test_all_run_on_tiny_dit(tmp_path: Path) -> None:
    """Blocks in place of layers, class labels in place of captions, Table 4 in place of the others."""
    values = [f"{key}={json.dumps(value)}" for key, value in FEW.items()]
    command = [sys.executable, "run_all.py", "--params", "params/tiny_dit.yaml", "--out", str(tmp_path), "--set"]
    done = subprocess.run([*command, *values], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "dit"
    for path in DEFAULT:
        assert all((run / "figures" / f"{name}.png").is_file() for name in figure_names(path)), path.stem
    tables = "".join(o.data["text/html"] for o in outputs(run, "05_evaluation") if "text/html" in o.get("data", {}))
    assert "DyDiT" in tables and "classifier precision" in tables and "BK-SDM" not in tables
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "12 transformer blocks can be skipped" in report and "of the prunable layers" in report
