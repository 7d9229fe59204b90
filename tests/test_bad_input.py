"""Bad input through the command line: one line a fault on stderr, exit code 2, no traceback, no file changed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alter_lib import runner
from alter_lib.common.command_line import BAD_INPUT, DONE, FAILED, INTERRUPTED, Parser, exit_code
from alter_lib.common.faults import Failed
from alter_lib.params import ROOT, ParamsError, load_params
from alter_lib.plan import ExpertPlan
from alter_lib.plan.costs import CostTable
from alter_lib.plan.file import PlanError


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


def test_a_missing_kernel_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., str], capsys: pytest.CaptureFixture[str]
):
    import jupyter_client.kernelspec as kernelspec

    def none(_manager: object, name: str) -> None:
        raise kernelspec.NoSuchKernel(name)

    monkeypatch.setattr(kernelspec.KernelSpecManager, "get_kernel_spec", none)
    code = runner.main(["--params", "params/smoke.yaml", "--out", str(tmp_path / "out")])
    (line,) = capsys.readouterr().err.splitlines()
    assert code == BAD_INPUT
    assert line == "01_first: no Jupyter kernel python3: python -m ipykernel install --sys-prefix adds it"


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


# --- plans --------------------------------------------------------------------------------------------------------

PLAN = ExpertPlan(
    masks=torch.tensor([[True, True, False, False], [False, True, True, True]]),
    routing=torch.tensor([0, 0, 0, 1]),
    layer_names=tuple(f"layer.{i}" for i in range(4)),
    cost=CostTable((10, 20, 30, 40), 100, "linear+conv", (8, 8)),
    backbone_class="UNet2DConditionModel",
    architecture_hash="0" * 64,
)

PLANS = {
    "another version": (lambda c: c.update(format="alter-plan/9"), "format: "),
    "no masks": (lambda c: c.pop("experts"), "experts: Field required"),
    "an unknown key": (lambda c: c.update(expert=[]), "expert: Extra inputs"),
    "a wrong length": (lambda c: c["experts"].__setitem__(0, "110"), "experts.0: 3 bits"),
    "letters": (lambda c: c["experts"].__setitem__(0, "11x0"), "experts.0: "),
    "an edited mask": (lambda c: c["experts"].__setitem__(0, "1110"), "achieved_ratio: "),
    "an edited cost": (lambda c: c["layers"][0].update(cost=11), "cost.total: 200"),
    "a negative cost": (lambda c: c["layers"][0].update(cost=-1), "layers.0.cost: "),
    "overlapping timesteps": (lambda c: c["routing"].__setitem__(1, [2, 3, 1]), "overlaps another row"),
    "missing timesteps": (lambda c: c["routing"].__setitem__(0, [0, 1, 0]), "timesteps 2..2 are missing"),
    "a missing end": (lambda c: c["routing"].pop(), "timesteps 3..3 are missing"),
    "timesteps beyond the end": (lambda c: c["routing"].__setitem__(1, [3, 9, 1]), "must lie within 0..3"),
    "an unknown expert": (lambda c: c["routing"].__setitem__(1, [3, 3, 7]), "routing: expert 7"),
    "a row of text": (lambda c: c["routing"].__setitem__(1, ["3", 3, 1]), "routing.1.0: "),
    "a name twice": (lambda c: c["layers"][0].update(name="layer.1"), "layers: a name stands twice"),
    "a ratio above one": (lambda c: c.update(target_ratio=1.5), "target_ratio: "),
    "no ratio": (lambda c: c.update(achieved_ratio=float("nan")), "achieved_ratio: "),
    "a huge number of timesteps": (lambda c: c.update(num_train_timesteps=10**18), "num_train_timesteps: "),
}


def loads(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The line that any command prints for this plan."""
    before = path.read_bytes()
    assert exit_code(lambda: ExpertPlan.load(path) and None, debug=False) == BAD_INPUT
    assert path.read_bytes() == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: ")
    return line


@pytest.mark.parametrize("name", PLANS)
def test_a_faulty_plan_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str):
    content, (damage, message) = PLAN.to_dict(), PLANS[name]
    damage(content)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    assert message in loads(path, capsys)


@pytest.mark.parametrize("text", ["", "[]", "1", '{"format": ', "\x00", "[" * 100_000, "9" * 5000])
def test_a_file_that_is_no_plan_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str):
    path = tmp_path / "plan.json"
    path.write_text(text)
    loads(path, capsys)


# --- what every command shares ------------------------------------------------------------------------------------


KEPT = "what was finished before is kept\n"


def fails(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ParamsError(["a: 1", "b: 2"]), BAD_INPUT, "a: 1\nb: 2\n"),
        (PlanError("x"), BAD_INPUT, "x\n"),
        (Failed("it stopped"), FAILED, "it stopped\n"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted: the same command goes on where it stopped\n"),
        (OSError(28, "x", "a/b"), BAD_INPUT, f"a/b: No space left on device; {KEPT}"),
        (OSError(30, "x", "a"), BAD_INPUT, f"a: Read-only file system; {KEPT}"),
        (RuntimeError("I/O error (os error 28)"), BAD_INPUT, f"run.out: No space left on device; {KEPT}"),
        (FileNotFoundError(2, "x", "a/b"), BAD_INPUT, "a/b: no such file\n"),
        (FileNotFoundError("runs/x: no artefact"), BAD_INPUT, "runs/x: no artefact\n"),
    ],
)
def test_a_fault_is_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, text: str
):
    assert exit_code(fails(error), debug=False) == code
    assert capsys.readouterr().err == text


def test_debug_shows_the_traceback_and_an_error_of_ours_always_does(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ParamsError):
        exit_code(fails(ParamsError(["a"])), debug=True)
    with pytest.raises(ZeroDivisionError):
        exit_code(fails(ZeroDivisionError()), debug=False)
    assert exit_code(lambda: None, debug=False) == DONE
    assert Parser().parse_args(["--debug"]).debug


def test_of_several_processes_one_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("RANK", "1")
    assert exit_code(fails(ParamsError(["a"])), debug=False) == BAD_INPUT
    assert capsys.readouterr().err == ""


# --- fuzzing ------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn, whole: object) -> object:
    """`whole` with one place in it replaced or taken away."""
    content = json.loads(json.dumps(whole))
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = draw(st.sampled_from(list(keys)))
        if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
            place = place[key]
        elif draw(st.booleans()):
            place[key] = draw(JSON)
            return content
        else:
            del place[key]
            return content


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "plan.json"


def only_plan_errors(path: Path) -> None:
    try:
        ExpertPlan.load(path)
    except PlanError as error:
        assert "\n" not in str(error)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | JSON.map(json.dumps).map(str.encode))
@settings(max_examples=150)
@example(b"\xef\xbb\xbf{}")
def test_whatever_a_plan_file_holds_only_plan_errors_come_out(plan_file: Path, content: bytes):
    plan_file.write_bytes(content)
    only_plan_errors(plan_file)


@given(damaged(PLAN.to_dict()))
@settings(max_examples=300)
def test_a_damaged_plan_loads_or_is_a_plan_error(plan_file: Path, content: object):
    plan_file.write_text(json.dumps(content))
    only_plan_errors(plan_file)


def only_params_errors(source: Path | dict, overrides: dict | None = None) -> None:
    try:
        load_params(source, overrides)
    except ParamsError as error:
        assert error.faults and all(line and "\n" not in line for line in error.faults)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | JSON.map(json.dumps).map(str.encode))
@settings(max_examples=150)
@example(b"run: &a [*a]\n")
@example(b"? [1, 2]\n: {}\n")
@example(b"run: {? [a] : 1}\n")
@example(b"run: 2020-13-45\n")
@example(b"run: {seed: 0x}\n")
@example(b"run: {seed: " + b"9" * 5000 + b"}\n")
@example(b"[" * 3000)
@example(b'{"\\ud834": {"\\ud834": "\\ud834"}, "run": {"name": "\\ud834", "\\udfd2": 1}}')
def test_whatever_a_params_file_holds_only_params_errors_come_out(plan_file: Path, content: bytes):
    path = plan_file.with_name("x.yaml")
    path.write_bytes(content)
    only_params_errors(path)


@given(damaged(load_params("params/smoke.yaml").dump()))
@settings(max_examples=300)
def test_damaged_params_load_or_are_a_params_error(content: object):
    only_params_errors(content if isinstance(content, dict) else {"run": content})


@given(st.dictionaries(st.text(max_size=12) | st.sampled_from(["training.steps", "run.name", "data.path"]), JSON))
@settings(max_examples=150)
def test_whatever_is_overridden_only_params_errors_come_out(overrides: dict):
    only_params_errors("params/smoke.yaml", overrides)


def test_the_catalogue_is_as_long_as_promised():
    assert len(VALUES) + len(PAIRS) + len(FILES) + len(PLANS) >= 60


def test_an_edited_notebook_is_run_again_not_refused(tmp_path: Path, write_notebook: Callable[..., Path]):
    from alter_lib.run_folder.state import Notebook

    path = write_notebook(tmp_path / "01_first.ipynb", "1")
    before = Notebook(path).source_hash()
    content = nbformat.read(path, 4)
    content.cells[-1].source = "2"
    nbformat.write(content, path)
    assert Notebook(path).source_hash() != before
