"""Which notebooks are up to date: real files in a run folder, no kernel."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from alter_lib.params import ROOT, Params, load_params
from alter_lib.run_folder import state
from alter_lib.run_folder.state import Notebook, RunState

SETS = {"backbone.id": "some/hub-id"}


class Run:
    """Three notebooks and a run folder; `execute` stands for what a kernel would leave there."""

    def __init__(self, folder: Path, write: Callable[..., Path]):
        self.folder, self.write = folder, write
        for stem, uses in {"01_a": ["training"], "02_b": ["loss"], "03_c": ["loss"]}.items():
            write(folder / "notebooks" / f"{stem}.ipynb", "1", alter={"uses": uses})

    def notebooks(self) -> list[Notebook]:
        return [Notebook(path) for path in sorted((self.folder / "notebooks").glob("*.ipynb"))]

    def params(self, **sets: object) -> Params:
        sets = {key.replace("__", "."): value for key, value in sets.items()}
        return load_params("params/smoke.yaml", {**SETS, "run.out": str(self.folder), **sets})

    def state(self, **sets: object) -> RunState:
        return RunState(self.params(**sets), self.notebooks())

    def execute(self, stem: str, files: dict[str, str], succeeds: bool = True, **sets: object) -> None:
        state = self.state(**sets)
        notebook = next(n for n in state.notebooks if n.stem == stem)
        state.forget(notebook)
        before = state.results()
        for name, text in files.items():
            path = state.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if succeeds:
            shutil.copy(notebook.path, state.executed(notebook))
            state.finish(notebook, before, 1.5)

    def execute_all(self) -> None:
        self.execute("01_a", {"figures/a.png": "1"})
        self.execute("02_b", {"alter/plan.json": "plan", "history.csv": "h", "checkpoints/1.bin": "c"})
        self.execute("03_c", {"metrics.json": "m"})

    def stale(self, **sets: object) -> dict[str, str]:
        state = self.state(**sets)
        return {n.stem: reason for n in state.notebooks if (reason := state.stale(n))}

    def __truediv__(self, name: str) -> Path:
        return self.params().run_folder / name


@pytest.fixture
def run(tmp_path: Path, write_notebook: Callable[..., Path]) -> Run:
    return Run(tmp_path, write_notebook)


def test_at_first_all_have_to_run_and_then_none(run: Run):
    assert run.stale() == dict.fromkeys(["01_a", "02_b", "03_c"], "not run yet")
    run.execute_all()
    assert run.stale() == {}


def test_a_section_counts_for_the_notebooks_that_use_it(run: Run):
    run.execute_all()
    assert run.stale(training__steps=13) == {"01_a": "params training changed"}
    assert run.stale(loss__ratio=6, sampling__steps=9) == dict.fromkeys(["02_b", "03_c"], "params loss changed")
    assert set(run.stale(run__seed=1)) == {"01_a", "02_b", "03_c"}


def test_without_a_list_a_notebook_uses_all_sections(run: Run):
    run.write(run.folder / "notebooks" / "04_d.ipynb", "1")
    run.execute_all()
    run.execute("04_d", {})
    assert run.stale(sampling__steps=9) == {"04_d": "params sampling changed"}


def test_of_a_notebook_the_source_counts_and_the_outputs_do_not(run: Run):
    run.execute_all()
    path = run.folder / "notebooks" / "03_c.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="saved by JupyterLab")]
    nbformat.write(notebook, path)
    assert run.stale() == {}
    notebook.cells[-1].source = "2"
    nbformat.write(notebook, path)
    assert run.stale() == {"03_c": "notebook changed"}


def test_a_result_that_is_lost_or_edited_is_made_again_and_a_touched_one_is_not(run: Run):
    run.execute_all()
    plan = run / "alter/plan.json"
    os.utime(plan, ns=(1, 1))
    assert run.stale() == {}
    plan.write_text("else")
    assert run.stale() == {"02_b": "alter/plan.json is missing or changed"}
    plan.unlink()
    assert run.stale() == {"02_b": "alter/plan.json is missing or changed"}
    shutil.rmtree(run / "checkpoints")
    plan.write_text("plan")
    assert run.stale() == {}


@pytest.mark.parametrize("name", ["plan_history.npz", "grid.npz"])
def test_arrays_beside_the_figures_count_as_results(run: Run, name: str):
    """Notebook 04 shows plan_history.npz, --compare shows grid.npz: without them a finished run can't be read."""
    run.execute_all()
    run.execute("02_b", {"alter/plan.json": "plan", "history.csv": "h", name: "1"})
    assert run.stale() == {"03_c": "earlier results changed"}
    run.execute("03_c", {"metrics.json": "m"})
    (run / name).unlink()
    assert run.stale() == {"02_b": f"{name} is missing or changed"}


def test_a_lost_executed_notebook_is_made_again(run: Run):
    run.execute_all()
    (run / "notebooks/01_a.ipynb").unlink()
    assert run.stale() == {"01_a": "not run yet"}


def test_another_result_reaches_the_later_notebooks_an_equal_one_does_not(run: Run):
    run.execute_all()
    run.execute("02_b", {"alter/plan.json": "plan", "history.csv": "h"})
    assert run.stale() == {}
    run.execute("02_b", {"alter/plan.json": "another"})
    assert run.stale() == {"03_c": "earlier results changed"}


def test_a_figure_is_nobody_s_input(run: Run):
    run.execute_all()
    run.execute("01_a", {"figures/a.png": "another"})
    assert run.stale() == {}


def test_a_notebook_may_add_to_a_file_of_an_earlier_one(run: Run):
    run.execute_all()
    run.write(run.folder / "notebooks" / "04_d.ipynb", "1", alter={"uses": []})
    run.execute("04_d", {"metrics.json": "m and more", "history.csv": "h and more"})
    assert run.stale() == {}


def test_results_that_a_notebook_reads_beside_its_run_are_its_input(run: Run):
    place = run.folder / "benchmark"
    run.write(run.folder / "notebooks" / "04_d.ipynb", "1", alter={"uses": [], "reads": [str(place)]})
    run.execute_all()
    run.execute("04_d", {})
    assert run.stale() == {}
    place.mkdir()
    (place / "cpu.json").write_text("{}")
    assert run.stale() == {"04_d": f"{place} changed"}


def test_what_a_failed_attempt_left_belongs_to_the_one_that_succeeds(run: Run):
    run.execute("01_a", {})
    run.execute("02_b", {"alter/plan.json": "plan"}, succeeds=False)
    assert run.stale() == dict.fromkeys(["02_b", "03_c"], "not run yet")
    run.execute("02_b", {})
    run.execute("03_c", {})
    (run / "alter/plan.json").write_text("edited")
    assert run.stale() == {"02_b": "alter/plan.json is missing or changed"}


def test_a_forced_run_that_fails_is_not_up_to_date(run: Run):
    run.execute_all()
    run.execute("02_b", {}, succeeds=False)
    assert run.stale() == {"02_b": "not run yet"}


def test_library_and_assets_count_for_all(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "root"
    (root / "alter_lib").mkdir(parents=True)
    (root / "assets").mkdir()
    monkeypatch.setattr(state, "ROOT", root)
    run.execute_all()
    (root / "alter_lib" / "report").mkdir()
    (root / "alter_lib" / "report" / "page.py").write_text("# builds the page, no notebook computes with it")
    (root / "assets" / "make.py").write_text("# neither with what made the assets")
    assert run.stale() == {}
    (root / "alter_lib" / "losses.py").write_text("x = 1")
    assert set(run.stale().values()) == {"library changed"} and len(run.stale()) == 3
    (root / "assets" / "w.safetensors").write_bytes(b"1")
    assert set(run.stale().values()) == {"library, assets changed"}


def test_the_project_s_library_has_a_hash_that_takes_no_time():
    assert len(state.library_hash()) == 64 and (ROOT / "alter_lib" / "losses.py").exists()


def test_an_edited_notebook_is_run_again_not_refused(tmp_path: Path, write_notebook: Callable[..., Path]):
    path = write_notebook(tmp_path / "01_first.ipynb", "1")
    before = Notebook(path).source_hash()
    content = nbformat.read(path, 4)
    content.cells[-1].source = "2"
    nbformat.write(content, path)
    assert Notebook(path).source_hash() != before
