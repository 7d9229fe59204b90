"""The notebooks: their form; one real run of all of them on params/smoke.yaml; and one of them in JupyterLab."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import yaml
from PIL import Image

from alter_lib.params import ROOT, Params, load_params
from alter_lib.run_state import Notebook

SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
STEMS = [path.stem for path in SOURCES]
PARAMETERS = "\n".join(f"{name} = None" for name in Params.model_fields) + "\noverrides = {}"
WIDGET = "application/vnd.jupyter.widget-view+json"


def cells(path: Path, kind: str | None = None) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if kind in (None, cell.cell_type)]


each = pytest.mark.parametrize("path", SOURCES, ids=STEMS)


# --- form ---------------------------------------------------------------------------------------------------------


def test_the_notebooks_of_the_default_run_are_there() -> None:
    wanted = {"01_backbone", "02_hypernetwork", "03_training", "04_routing", "05_evaluation", "07_deployment"}
    assert wanted <= set(STEMS)


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


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """The run folder of `run_all.py --params params/smoke.yaml`, and how that ended."""
    out = tmp_path_factory.mktemp("runs")
    done = run_all(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "smoke", done


def run_all(out: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "run_all.py", "--params", "params/smoke.yaml", "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)


def executed(run: Path, stem: str) -> list[nbformat.NotebookNode]:
    return cells(run / "notebooks" / f"{stem}.ipynb", "code")


def outputs(run: Path, stem: str) -> list[nbformat.NotebookNode]:
    return [output for cell in executed(run, stem) for output in cell.outputs]


def test_every_notebook_ran(smoke_run: tuple) -> None:
    run, done = smoke_run
    assert re.findall(r"\] (\w+) +done in", done.stdout) == STEMS
    for stem in STEMS:
        assert all(cell.execution_count for cell in executed(run, stem))
        assert not [output for output in outputs(run, stem) if output.output_type == "error"]
        assert (run / "notebooks" / f"{stem}.ipynb").stat().st_size < 1_000_000


@each
def test_every_figure_is_saved_and_shown(smoke_run: tuple, path: Path) -> None:
    run, _ = smoke_run
    shown = [output.data["image/png"] for output in outputs(run, path.stem) if "image/png" in output.get("data", {})]
    for name in figure_names(path):
        picture = Image.open(run / "figures" / f"{name}.png")
        assert picture.width > 1000 and np.asarray(picture.convert("L")).std() > 1
    assert len(shown) >= len(figure_names(path))


@each
def test_executed_notebooks_are_quiet(smoke_run: tuple, path: Path) -> None:
    """No hints and warnings of other libraries between the results."""
    streams = [o.text for o in outputs(smoke_run[0], path.stem) if o.output_type == "stream" and o.name == "stderr"]
    assert not [text for text in streams if "warn" in text.lower() or "torchvision" in text]


def test_training_shows_live_curves(smoke_run: tuple) -> None:
    live = [
        o for o in outputs(smoke_run[0], "03_training") if o.output_type == "display_data" and "image/png" in o.data
    ]
    assert len(live) == 1


def test_inspector_is_shown_with_a_static_figure_beside_it(smoke_run: tuple) -> None:
    code = executed(smoke_run[0], "04_routing")
    at = next(i for i, cell in enumerate(code) if "MaskInspector(" in cell.source)
    assert any(WIDGET in output.data for output in code[at].outputs)
    assert any("image/png" in output.data for output in code[at + 1].outputs)


def test_deployment_is_exact(smoke_run: tuple) -> None:
    text = "".join(o.text for o in outputs(smoke_run[0], "07_deployment") if o.output_type == "stream")
    assert "plan: active" in text and "bit-identical to the stock pipeline: True" in text


def test_results_and_report_are_there(smoke_run: tuple) -> None:
    run, _ = smoke_run
    for name in ("params.yaml", "provenance.json", "history.csv", "metrics.json", "alter/plan.json"):
        assert (run / name).is_file(), name
    report = (run / "report.html").read_text(encoding="utf-8")
    for path in SOURCES:
        assert cells(path)[0].source.splitlines()[0].removeprefix("# ").replace("'", "&#39;") in report
    assert len(re.findall(r'src="data:image/', report)) >= sum(len(figure_names(path)) for path in SOURCES)
    assert not re.search(r'(src|href)="(?!data:|#|https?://)', report)


def test_a_rerun_executes_nothing(smoke_run: tuple) -> None:
    run, _ = smoke_run
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    began = time.monotonic()
    again = run_all(run.parent)
    assert again.returncode == 0 and time.monotonic() - began < 20
    assert re.findall(r"\] (\w+) +up to date", again.stdout) == STEMS
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


# --- JupyterLab ---------------------------------------------------------------------------------------------------


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    """A server on a free port, its files below `folder`; yields its address with the token."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(folder / ".config")}
    for name in ("RUNTIME", "DATA"):
        environment[f"JUPYTER_{name}_DIR"] = str(folder / f".{name.lower()}")
    tracker = folder / ".settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}')  # else cells outside the window are not in the page
    environment["JUPYTERLAB_SETTINGS_DIR"] = str(folder / ".settings")
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--port=0",
        "--allow-root",
        f"--notebook-dir={folder}",
    ]
    log = (folder / "lab.log").open("w")
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder)
    try:
        yield address(folder / ".runtime", server)
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def address(runtime: Path, server: subprocess.Popen) -> str:
    for _ in range(240):
        for path in runtime.glob("jpserver-*.json"):
            info = json.loads(path.read_text())
            return f"{info['url']}lab/tree/04_routing.ipynb?token={info['token']}"
        assert server.poll() is None, "JupyterLab did not start"
        time.sleep(0.5)
    raise TimeoutError("JupyterLab did not start")


@pytest.fixture
def page(chromium: str):
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser.new_page(viewport={"width": 1400, "height": 1000})
        browser.close()


def run_cell(page, cell) -> None:
    """One code cell, to its end. Shift-Enter is lost while the page has no kernel yet: it is pressed until it works."""
    from playwright.sync_api import expect

    prompt = cell.locator(".jp-InputPrompt")
    for attempt in range(6):
        prompt.click()
        page.keyboard.press("Shift+Enter")
        try:
            expect(prompt).to_have_text(re.compile(r"\[(\d+|\*)\]"), timeout=10_000)
            break
        except AssertionError:
            if attempt == 5:
                raise
    expect(prompt).to_have_text(re.compile(r"\[\d+\]"), timeout=180_000)


def test_the_slider_moves_in_jupyterlab(smoke_run: tuple, tmp_path: Path, page) -> None:
    run, _ = smoke_run
    notebook = nbformat.read(run / "notebooks" / "04_routing.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, tmp_path / "04_routing.ipynb")
    with jupyter_lab(tmp_path) as url:
        page.goto(url)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
        for number in range(sum(cell.cell_type == "code" for cell in notebook.cells)):
            run_cell(page, page.locator(".jp-Notebook .jp-CodeCell").nth(number))
        slider = page.locator(".widget-slider", has_text="timestep")
        picture, text = page.locator(".widget-image"), page.locator(".jupyter-widgets.widget-html")
        before = picture.get_attribute("src")
        slider.locator(".noUi-handle").focus()
        page.keyboard.press("Home")
        page.wait_for_function("([node, before]) => node.src !== before", arg=[picture.element_handle(), before])
        assert "Timestep 0 is served by expert" in text.inner_text()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("node => node.innerText.includes('Timestep 1 is served')", arg=text.element_handle())
        page.screenshot(path=tmp_path / "lab.png")
        assert picture.evaluate("node => node.naturalWidth") > 500
