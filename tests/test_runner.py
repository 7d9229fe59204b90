"""run_all.py: real notebooks in real kernels, made in a temporary folder."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest

from alter_lib import runner
from alter_lib.common.faults import BadInput
from alter_lib.params import ROOT
from alter_lib.params.training import PLANS
from alter_lib.run_folder import execution

NO_INDEX = "has no model_index.json: not a diffusers pipeline folder"
ARGUMENTS = ["--params", "params/smoke.yaml", "--set", "backbone.id=some/hub-id"]


class Project:
    def __init__(self, folder: Path, write: Callable[..., Path]):
        self.notebooks, self.out, self.run = folder / "notebooks", folder / "out", folder / "out" / "smoke"
        self.write = lambda stem, *cells, **more: write(self.notebooks / f"{stem}.ipynb", *cells, **more)

    def main(self, *arguments: str) -> int:
        return runner.main([*ARGUMENTS, "--out", str(self.out), *arguments])

    def executed(self, stem: str) -> nbformat.NotebookNode:
        return nbformat.read(self.run / "notebooks" / f"{stem}.ipynb", 4)

    def output(self, stem: str) -> str:
        cells = self.executed(stem).cells
        return "".join(out.get("text", "") for cell in cells if cell.cell_type == "code" for out in cell.outputs)


@pytest.fixture
def project(tmp_path: Path, write_notebook: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    made = Project(tmp_path / "braces {x} and é", write_notebook)
    monkeypatch.setattr(runner, "NOTEBOOKS", made.notebooks)
    for name in ("PYTHONPATH", "PYDEVD_DISABLE_FILE_VALIDATION"):  # main sets them: put back afterwards
        monkeypatch.setenv(name, os.environ.get(name, ""))
    before = signal.getsignal(signal.SIGTERM)
    yield made
    signal.signal(signal.SIGTERM, before)


WRITE = """
from pathlib import Path
run_folder = Path(run["out"]) / run["name"]
import alter_lib.params as p
run_folder = p.resolve(run_folder)
(run_folder / "alter").mkdir(exist_ok=True)
(run_folder / "alter" / "plan.json").write_text("{}")
print("steps", training["steps"])
"""
PLACES = """
import sys, pathlib
print(p.ROOT / "alter_lib", sys.prefix + "/lib", pathlib.Path.home() / "x", sep="\\n")
"""


def test_run_rerun_and_change(project: Project, capsys: pytest.CaptureFixture[str]):
    project.write("01_first", WRITE, PLACES, title="First question", alter={"uses": ["training"]})
    project.write("02_second", "print(loss['ratio'], sampling['steps'], overrides)", alter={"uses": ["loss"]})
    assert project.main() == runner.DONE
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\[1/2\] 01_first +done in \d+s", lines[0]), lines
    assert re.fullmatch(r"\[2/2\] 02_second +done in \d+s", lines[1]), lines
    assert lines[2].startswith("report: ") and len(lines) == 3

    assert project.output("01_first").startswith("steps 12\n")
    assert project.output("02_second") == "5.0 4 {}\n"
    text = (project.run / "notebooks" / "01_first.ipynb").read_text()
    assert str(ROOT) not in text and str(Path.home()) + "/" not in text and sys.prefix not in text
    assert "alter_lib\n" in project.output("01_first")
    assert {p.name for p in project.run.iterdir()} >= {"params.yaml", "provenance.json", "report.html", "alter"}
    assert set(json.loads((project.run / "provenance.json").read_text())["wall_seconds"]) == {"01_first", "02_second"}
    assert "First question" in (project.run / "report.html").read_text()

    stamps = {p: p.stat().st_mtime_ns for p in project.run.rglob("*") if p.is_file()}
    begin = time.perf_counter()
    assert project.main() == runner.DONE
    assert time.perf_counter() - begin < 20
    assert capsys.readouterr().out.count("up to date") == 2
    assert {p: p.stat().st_mtime_ns for p in project.run.rglob("*") if p.is_file()} == stamps

    assert project.main("--set", "loss.ratio=6") == runner.DONE
    lines = capsys.readouterr().out.splitlines()
    assert "up to date" in lines[0] and "done in" in lines[1]
    assert project.main("--only", "01", "--force") == runner.DONE
    assert re.fullmatch(r"\[1/1\] 01_first +done in \d+s\nreport: .*\n", capsys.readouterr().out)


def test_a_failure_is_told_and_the_next_run_goes_on_there(project: Project, capsys: pytest.CaptureFixture[str]):
    project.write("01_first", "pass")
    project.write("02_second", "x = 1", "y = 2 +\\\n  undefined_name")
    assert project.main() == runner.FAILED
    out, err = capsys.readouterr()
    assert "[2/2] 02_second" in out and "failed after" in out
    assert err.startswith("02_second: cell In [4] (y = 2 +\\): NameError: name 'undefined_name' is not defined\n")
    partial = project.run / "notebooks" / "02_second.partial.ipynb"
    assert str(partial) in err and "undefined_name" in partial.read_text()
    assert not (project.run / "notebooks" / "02_second.ipynb").exists() and not (project.run / "report.html").exists()

    project.write("02_second", "x = 1")
    assert project.main() == runner.DONE
    lines = capsys.readouterr().out.splitlines()
    assert "up to date" in lines[0] and "done in" in lines[1]
    assert not partial.exists()


def test_bad_input_that_a_cell_meets_is_a_line_a_fault_and_exit_2(project: Project, capsys: pytest.CaptureFixture[str]):
    project.write(
        "01_first", "import alter_lib.params as p\nraise p.ParamsError(['data.path: no x', 'data.split: no y'])"
    )
    assert project.main() == runner.BAD_INPUT
    assert capsys.readouterr().err == "01_first: data.path: no x\n01_first: data.split: no y\n"
    assert not (project.run / "notebooks" / "01_first.ipynb").exists()


def test_bad_input_is_known_by_every_name_that_it_has():
    import alter_lib
    import alter_lib.evaluation.weights

    assert alter_lib.load_backbone and execution.BAD_INPUT == {BadInput.__name__, *descendants(BadInput)}


def descendants(kind: type) -> set[str]:
    below = kind.__subclasses__()
    return {each.__name__ for each in below}.union(*map(descendants, below))


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM], ids=lambda sign: sign.name)
def test_an_interrupted_run_exits_130_and_leaves_no_kernel(project: Project, sign: signal.Signals):
    marker = project.out.parent / "pid"
    project.write("01_first", f"import os, time; open({str(marker)!r}, 'w').write(str(os.getpid()))", "time.sleep(600)")
    code = f"""import sys
from pathlib import Path
from alter_lib import runner
from alter_lib.common.faults import BadInput
runner.NOTEBOOKS = Path({str(project.notebooks)!r})
sys.exit(runner.main({[*ARGUMENTS, "--out", str(project.out)]!r}))"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores Ctrl-C
    )  # fmt: skip
    wait_for(lambda: marker.exists() and marker.read_text())
    process.send_signal(sign)
    _, err = process.communicate(timeout=120)
    assert process.returncode == runner.INTERRUPTED
    assert err == "interrupted: the same command goes on where it stopped\n"
    wait_for(lambda: not alive(int(marker.read_text())))
    assert (project.run / "notebooks" / "01_first.partial.ipynb").exists()


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def alive(pid: int) -> bool:
    """Whether a process runs: one that only waits to be reaped does not."""
    state = Path(f"/proc/{pid}/stat")
    try:
        os.kill(pid, 0)
        return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--set", "training.steps=abc"], "override: training.steps: 'abc' is not an integer >= 1"),
        (["--params", "params/none.yaml"], "params/none.yaml: No such file or directory"),
        (["--only", "09"], "notebook '09': unknown; known: 01_first"),
        (["--from", "x"], "notebook 'x': unknown; known: 01_first"),
        (["--set", "backbone.id=/no/where"], "backbone.id: no folder /no/where"),
        (["--set", "backbone.id=params"], f"backbone.id: params {NO_INDEX}"),
        (["--set", "backbone.id=assets/none"], "backbone.id: assets/none: not listed in assets/MANIFEST.sha256"),
        (["--set", "evaluation.teacher_results=none.json"], "evaluation.teacher_results: no file none.json"),
        (
            ["--set", "training.plan=none.json", "training.hypernetwork_steps=0"],
            f"training.plan: no file none.json, nor one of {', '.join(PLANS)}",
        ),
        (["--set", "training.steps"], "override: training.steps: is not of the form section.key=value"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    project: Project, capsys: pytest.CaptureFixture[str], arguments: list[str], fault: str
):
    project.write("01_first", "pass")
    assert project.main(*arguments) == runner.BAD_INPUT
    assert capsys.readouterr().err == fault + "\n"
    assert not project.out.exists()


def test_a_notebook_on_request_runs_where_it_is_named_alone(project: Project, capsys: pytest.CaptureFixture[str]):
    project.write("01_first", "pass")
    project.write("02_other", "pass", alter={"on_request": True})
    project.write("03_last", "pass")
    found = runner.notebooks(project.notebooks)
    for only, start, chosen in (
        (None, None, "01 03"),
        (None, "02", "03"),
        ("02", None, "02"),
        ("01,02", None, "01 02"),
    ):
        assert [notebook.stem[:2] for notebook in runner.select(found, only, start)] == chosen.split()
    assert project.main("--list") == runner.DONE
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["01_first", "02)", "03_last"]


def test_an_unknown_option_is_one_line_and_exit_2(project: Project, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        project.main("--frce")
    assert caught.value.code == 2 and capsys.readouterr().err == "unrecognized arguments: --frce\n"


def test_an_out_folder_that_can_not_be_made_is_bad_input(project: Project, capsys: pytest.CaptureFixture[str]):
    project.write("01_first", "pass")
    project.out.write_text("a file in the way")
    assert project.main() == runner.BAD_INPUT
    assert capsys.readouterr().err.startswith("run.out: can't write ")


def test_a_second_process_in_the_same_run_is_refused(project: Project, capsys: pytest.CaptureFixture[str]):
    project.write("01_first", "pass")
    code = f"""import sys
from pathlib import Path
from alter_lib.run_folder.lock import locked
with locked(Path({str(project.run)!r}), "run"):
    print("held", flush=True)
    sys.stdin.read()"""
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    try:
        assert project.main() == runner.BAD_INPUT
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(rf"smoke: process {holder.pid} on \S+ \(run, since \S+\) is at work there$", line)
    finally:
        holder.kill()
        holder.communicate()
    assert project.main() == runner.DONE  # the lock of a dead process holds nobody up


def test_dry_run_and_list_write_nothing(project: Project, capsys: pytest.CaptureFixture[str]):
    project.write("01_first", "pass", title="First question")
    project.write("02_second", "pass", title="Second question")
    assert project.main("--dry-run", "--from", "02") == runner.DONE
    assert capsys.readouterr().out.split() == "02_second runs: not run yet".split()
    assert project.main("--list") == runner.DONE
    listed = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert listed == [["01_first", "First question"], ["02_second", "Second question"]]
    assert not project.out.exists()


def test_the_runner_starts_without_the_heavy_libraries():
    heavy = {"torch", "diffusers", "papermill", "nbconvert", "numpy"}
    code = f"import sys, alter_lib.runner; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_images_keep_what_looks_like_a_path():
    data = {"image/png": str(ROOT), "text/plain": f"{ROOT}/x", "n": 1}
    assert execution._relative_strings([data]) == [{"image/png": str(ROOT), "text/plain": "x", "n": 1}]
