"""What all commands share: exit codes, one line a fault, --debug."""

import sys
from collections.abc import Callable
from importlib import import_module

import pytest

from alter_lib.common.command_line import BAD_INPUT, DONE, FAILED, INTERRUPTED, Parser, exit_code
from alter_lib.common.faults import Failed
from alter_lib.params import ROOT, ParamsError
from alter_lib.plan.file import PlanError

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


COMMANDS = ("ablation_study.__main__", "ablation_study.distillation", "assets", "benchmark.__main__",
            "benchmark_training", "collect", "data.cache", "evaluation.__main__", "evaluation.curve",
            "evaluation.generate", "export", "projection", "runner", "training.__main__")  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_debug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str):
    monkeypatch.setattr(sys, "argv", ["command", "--help"])
    with pytest.raises(SystemExit):
        import_module(f"alter_lib.{name}").main()
    assert "--debug " in capsys.readouterr().out


def test_no_command_is_left_out():
    library = ROOT / "alter_lib"
    files = {path for path in library.rglob("*.py") if 'if __name__ == "__main__"' in path.read_text()}
    modules = {".".join(path.relative_to(library).with_suffix("").parts) for path in files}
    assert modules | {"runner"} == set(COMMANDS)  # run_all.py is the runner's
