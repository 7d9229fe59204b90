"""Bad input through the command line: one line a fault on stderr, exit code 2, no traceback, no file changed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jupyter_client.kernelspec as kernelspec
import pytest
from test_bad_plans import PLANS

from alter_lib import runner
from alter_lib.common.command_line import BAD_INPUT
from alter_lib.params import ROOT


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, hidden ones too."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    write_notebook: Callable[..., Path],
) -> Iterator[Callable[..., str]]:
    """run_all on a notebook that would print a word; returns its stderr, all else checked."""
    write_notebook(tmp_path / "notebooks" / "01_first.ipynb", "print('it ran')")
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    monkeypatch.setattr(runner.signal, "signal", lambda *_: None)

    def run(*arguments: str) -> str:
        before = tree(tmp_path)
        out = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
        try:
            code = runner.main([*out, *arguments])
        except SystemExit as stop:  # argparse
            code = stop.code
        printed, error = capsys.readouterr()
        assert code == BAD_INPUT and printed == "" and "Traceback" not in error
        assert tree(tmp_path) == before
        return error

    yield run


VALUES = {  # one faulty value: what the line says beside the key
    "training.stpes=1": "unknown key; did you mean steps?",
    "training.zzzzz=1": "unknown key; known: steps, ",
    "training.target_ratio=0.5": "unknown key; did you mean loss.target_ratio?",
    "trainig.steps=1": "unknown section; did you mean training?",
    "steps=3": "is not of the form section.key",
    "training.steps": "is not of the form section.key=value",
    "training.steps=[1": "expected",
    "training.steps=abc": "'abc' is not an integer >= 1",
    "training.steps=true": "True is not an integer >= 1",
    "training.steps=1.5": "1.5 is not an integer >= 1",
    "training.steps=null": "None is not an integer >= 1",
    "training.steps=0": "0 is not an integer >= 1",
    "training.steps={a: 1}": "{'a': 1} is not an integer >= 1",
    "training.learning_rate=.nan": "nan is not a number > 0",
    "training.learning_rate=.inf": "inf is not a number > 0",
    "training.max_skipped_steps=-1": "-1 is not an integer >= 0",
    "training.ema_decay=1.0": "1.0 is not a number >= 0 and < 1",
    "training.optimizer=sgd": "'sgd' is not one of adamw | adamw_8bit",
    "run.seed=-1": "-1 is not an integer >= 0 and < 4294967296",
    "run.seed=4294967296": "4294967296 is not an integer >= 0 and < 4294967296",
    "run.name=../up": "'../up' is not a folder name",
    "run.out=": "None is not text",
    "loss.target_ratio=1.5": "1.5 is not a number > 0 and <= 1",
    "loss.target_ratio=0": "0 is not a number > 0 and <= 1",
    "loss.ratio=-1": "-1 is not a number >= 0",
    "data.caption_dropout=1.2": "1.2 is not a number >= 0 and <= 1",
    "data.keywords=1": "1 is not true or false",
    "data.source=laion": "'laion' is not one of emoji | fashion",
    "hypernetwork.noise=normal": "'normal' is not one of gumbel | logistic",
    "cost.resolution=[64]": "[64] is not a list of 2",
    "evaluation.steps=[]": "[] is not a list of 1 or more",
    "evaluation.steps=[20, 0]": "[20, 0] is not a list of 1 or more",
    "evaluation.num_images=1": "1 is not an integer >= 2",
    "sampling.scheduler=PNDM": "'PNDM' is not a diffusers scheduler class or null",
    # contradictions
    "training.hypernetwork_steps=999": "999 is not at most steps (12)",
    "training.warmup_steps=999": "999 is not at most steps (12)",
    "training.num_processes=3": "8 is not a multiple of num_processes (3)",
    "data.path=x": "'x' does not go with source emoji",
    "data.flip=true": "True does not go with source emoji",
    "data.streaming=true": "does not go with source emoji",
    "evaluation.metrics=[fid]": "has no part in the embedded protocol",
    "evaluation.protocol=prompts": "prompts: null is not the file",
    # files that are not there
    "backbone.id=/no/where": "no folder /no/where",
    "backbone.id=params": "has no model_index.json: not a diffusers pipeline folder",
    "backbone.id=assets/none": "not listed in assets/MANIFEST.sha256",
    "evaluation.teacher_results=none.json": "no file none.json",
}


@pytest.mark.parametrize("assignment", VALUES)
def test_a_faulty_value_is_one_line(command: Callable[..., str], assignment: str):
    (line,) = command("--params", "params/smoke.yaml", "--set", assignment).splitlines()
    assert VALUES[assignment] in line and assignment.split("=")[0].split(".")[0] in line


def test_two_faults_are_two_lines(command: Callable[..., str]):
    error = command("--params", "params/smoke.yaml", "--set", "training.steps=abc", "loss.ratio=-1")
    assert [line.split(": ")[1] for line in sorted(error.splitlines())] == ["loss.ratio", "training.steps"]


PAIRS = {
    ("sampling.procedure=learned_variance", "sampling.scheduler=DDIMScheduler"): "has no part in the learned_variance",
    ("data.source=webdataset", "data.cache_folder=x"): "data.path: missing; source webdataset needs it",
    ("data.source=coco", "data.path=x", "data.cache_folder=x", "data.split=a"): "'a' is not one of train2014",
    ("data.source=hub", "data.path=x", "data.cache_folder=x", "data.crop=random"): "crop: random needs cache_latents",
}


@pytest.mark.parametrize("assignments", PAIRS)
def test_values_that_contradict_each_other_are_one_line(command: Callable[..., str], assignments: tuple[str, ...]):
    (line,) = command("--params", "params/smoke.yaml", "--set", *assignments).splitlines()
    assert PAIRS[assignments] in line


FILES = {
    "empty": (b"", "holds no sections; known: run, backbone"),
    "a list": (b"- 1\n", "holds no sections"),
    "a number for a section": (b"training: 5\n", "training: 5 is not a mapping of keys to values"),
    "cut off": (b"run: {name: a\n", "line 2: "),
    "a key twice": (b"run:\n  seed: 1\n  seed: 2\n", "line 2: seed is given twice"),
    "code": (b"run: !!python/object/apply:os.getcwd []\n", "line 1: could not determine a constructor"),
    "binary": (b"\xff\xfe\x00", "not UTF-8 text"),
    "a control character": (b"run: {name: \x07}\n", ""),
    "a loop": (b"run: &a [*a]\n", "is not a mapping"),
    "a date for a section": (b"2020-01-01: {}\n", "unknown section"),
    "a number for a key": (b"run: {1: 2}\n", "unknown key"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_holds_no_params_is_named(command: Callable[..., str], tmp_path: Path, name: str):
    file, (content, message) = tmp_path / "x.yaml", FILES[name]
    file.write_bytes(content)
    lines = command("--params", str(file)).splitlines()
    assert all(line.startswith(str(file)) for line in lines) and any(message in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--params", "params/none.yaml"], "params/none.yaml: No such file or directory"),
        (["--params", "params"], "params: Is a directory"),
        (["--only", "09"], "notebook '09': unknown; known: 01_first"),
        (["--from", "x"], "notebook 'x': unknown; known: 01_first"),
        (["--only", "01", "--from", "01"], "not allowed with argument --only"),
        (["--frce"], "unrecognized arguments: --frce"),
        (["--params"], "argument --params: expected one argument"),
    ],
)
def test_a_faulty_option_is_one_line(command: Callable[..., str], arguments: list[str], message: str):
    (line,) = command(*arguments).splitlines()
    assert message in line


def test_an_output_folder_that_can_not_be_written_is_one_line(command: Callable[..., str], tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    (line,) = command("--params", "params/smoke.yaml", "--out", str(tmp_path / "file")).splitlines()
    assert line.startswith("run.out: can't write ") and line.endswith("Not a directory")


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a file system that nobody can write to")
def test_a_read_only_output_folder_is_one_line(command: Callable[..., str]):
    (line,) = command("--params", "params/smoke.yaml", "--out", "/sys/kernel/alter").splitlines()
    assert line.startswith("run.out: can't write /sys/kernel/alter")


def test_a_broken_notebook_is_named(command: Callable[..., str], tmp_path: Path):
    (tmp_path / "notebooks" / "01_first.ipynb").write_text('{"cells": [')
    (line,) = command("--params", "params/smoke.yaml").splitlines()
    assert line.startswith("01_first.ipynb: not a notebook: ")


def test_a_missing_kernel_is_named(command: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    def none(_manager: object, name: str) -> None:
        raise kernelspec.NoSuchKernel(name)

    monkeypatch.setattr(kernelspec.KernelSpecManager, "get_kernel_spec", none)
    error = command("--params", "params/smoke.yaml")
    assert error == "no Jupyter kernel python3: python -m ipykernel install --sys-prefix adds it\n"


VERSION, INSTALL = sys.version.split()[0], "make run, or pip install -e . in this environment"


def run_all(prelude: str) -> subprocess.CompletedProcess:
    start = "sys.argv = ['run_all.py', '--list']\nrunpy.run_path('run_all.py', run_name='__main__')"
    code = f"import sys, runpy\n{prelude}\n{start}"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("prelude", "line"),
    [
        ("sys.version_info = (3, 9)", f"needs Python >= 3.11, this is {VERSION}: make run PYTHON=python3.11"),
        ("sys.modules['yaml'] = None", f"package yaml is not installed: {INSTALL}"),
    ],
)
def test_an_unfit_environment_is_one_line(prelude: str, line: str):
    done = run_all(prelude)
    assert (done.returncode, done.stdout, done.stderr) == (BAD_INPUT, "", line + "\n")


def test_the_catalogue_is_as_long_as_promised():
    assert len(VALUES) + len(PAIRS) + len(FILES) + len(PLANS) >= 60
