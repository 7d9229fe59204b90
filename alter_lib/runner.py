"""Executes the ordered notebooks with papermill: skips what is up to date, goes on where it stopped, says what failed.

Every notebook receives all params sections and works in the run folder runs/<name>/ (see run_all.py --help).
"""

import argparse
import json
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from . import provenance
from .assets import AssetError, verified
from .common.command_line import BAD_INPUT, DONE, FAILED, INTERRUPTED, Parser, exit_code
from .params import ROOT, Params, ParamsError, add_params_arguments, load_params, params_from_arguments, resolve
from .params.training import PLANS
from .run_folder.changed_params import make_way
from .run_folder.execution import check_kernel, execute
from .run_folder.lock import locked
from .run_folder.progress import Progress, about, clock, earlier_seconds
from .run_folder.state import Notebook, RunState

__all__ = ["BAD_INPUT", "DONE", "FAILED", "INTERRUPTED", "main"]
NOTEBOOKS = ROOT / "notebooks"


def notebooks(folder: Path) -> list[Notebook]:
    """The notebooks NN_topic.ipynb of a folder, in order."""
    return [Notebook(path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]


def select(available: Sequence[Notebook], only: str | None, start: str | None) -> list[Notebook]:
    """Those named by number or stem in `only` ("03,05"), or all from `start` on but for those that want to be named.

    Raises ParamsError for an unknown one.
    """

    def find(name: str) -> Notebook:
        found = [n for n in available if name in (n.stem, n.stem[:2], n.path.name)]
        if not found:
            raise ParamsError([f"notebook {name!r}: unknown; known: {', '.join(n.stem for n in available)}"])
        return found[0]

    if only:
        wanted = {find(name.strip()).stem for name in only.split(",")}
        return [n for n in available if n.stem in wanted]
    first = find(start).stem if start else ""
    return [n for n in available if n.stem >= first and not n.on_request()]


def check_files(params: Params) -> None:
    """Raises ParamsError when a local file that the params name is missing or damaged (hub ids are not looked up)."""
    spec, figures, plan = params.backbone.id, params.evaluation.teacher_results, params.training.plan
    faults = []
    if spec.startswith("assets/"):
        try:
            verified(spec)
        except AssetError as error:
            faults.append(f"backbone.id: {error}")
    elif resolve(spec).is_dir() and not (resolve(spec) / "model_index.json").is_file():
        faults.append(f"backbone.id: {spec} has no model_index.json: not a diffusers pipeline folder")
    elif (spec.count("/") > 1 or spec.startswith((".", "/"))) and not resolve(spec).is_dir():
        faults.append(f"backbone.id: no folder {spec}")
    if plan and plan not in PLANS:
        from .plan.file import plan_path  # here: the package needs torch, and a rerun with nothing to do must be quick

        if not plan_path(resolve(plan)).is_file():
            faults.append(f"training.plan: no file {plan}, nor one of {', '.join(PLANS)}")
    if figures and not resolve(figures).is_file():
        faults.append(f"evaluation.teacher_results: no file {figures}")
    if faults:
        raise ParamsError(faults)


def run(params: Params, chosen: Sequence[Notebook], available: Sequence[Notebook], force: bool = False) -> bool:
    """Execute the chosen notebooks that are not up to date (all with `force`); returns whether any ran.

    Raises NotebookFailed, or ParamsError when there is no kernel, the run folder can't be written, or another process
    runs in it.
    """
    state = RunState(params, available)
    progress = Progress(len(chosen), earlier_seconds(state))
    ran = False
    with ExitStack() as held:
        for number, notebook in enumerate(chosen, 1):
            if not force and not state.stale(notebook):
                progress.line(number, notebook.stem, "up to date")
                continue
            if not ran:
                check_kernel()
                held.enter_context(locked(state.folder, "run"))
                with locked(state.folder, "training"):  # no training by another command, either
                    provenance.record(params, state.folder)
            _run_one(state, notebook, progress, number, [later.stem for later in chosen[number:]])
            ran = True
    return ran


def _run_one(state: RunState, notebook: Notebook, progress: Progress, number: int, later: Sequence[str]) -> None:
    state.forget(notebook)
    before = state.results()
    with progress.running(number, notebook.stem, later) as passed:
        outcome = "failed"
        try:
            execute(notebook, state.params, state.executed(notebook))
            outcome = "done"
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        finally:
            seconds = passed()
            if outcome != "done":
                progress.line(number, notebook.stem, f"{outcome} after {clock(seconds)}")
    state.finish(notebook, before, seconds)
    provenance.record(state.params, state.folder, wall_seconds={notebook.stem: round(seconds, 1)})
    progress.seconds[notebook.stem] = seconds
    progress.line(number, notebook.stem, f"done in {clock(seconds)}{about(progress.remaining(later))}")


def preview(state: RunState, chosen: Sequence[Notebook], force: bool) -> None:
    """Print what a run would do, and why."""
    uncertain = False
    for notebook in chosen:
        reason = "forced" if force else state.stale(notebook)
        verdict = f"runs: {reason}" if reason else "runs if an earlier result changes" if uncertain else "up to date"
        uncertain = uncertain or bool(reason)
        print(f"{notebook.stem:<18} {verdict}")


def _shown(path: Path) -> str:
    return provenance.relative(str(path))


def _arguments() -> Parser:
    parser = Parser(prog="run_all.py", description="Execute the notebooks of one run and build its report.")
    add_params_arguments(parser)
    parser.add_argument("--out", metavar="DIR", help="folder that holds the run's folder (default: runs)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", metavar="NN,NN", help="these notebooks, by number or name")
    which.add_argument("--from", dest="start", metavar="NN", help="this notebook and those after it")
    parser.add_argument(
        "--force", action="store_true", help="run them even if nothing changed, or other params were trained"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run and why; write nothing")
    parser.add_argument("--list", action="store_true", help="list the notebooks and stop")
    parser.add_argument("--compare", nargs="+", metavar="RUN", help="write one page that compares these run folders")
    return parser


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of run_all.py; returns its exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    options = _arguments().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    # Kernels import alter_lib from here; and a debugger that papermill never uses shall not warn about frozen modules.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    return exit_code(lambda: _main(options), options.debug)


def _main(options: argparse.Namespace) -> int:
    available = notebooks(NOTEBOOKS)
    if options.list:
        return show_list(available)
    if options.compare:
        return compare(options.compare)
    params = params_from_arguments(options)
    if options.out:  # typed in a shell: relative to where it was typed
        params = load_params(params.dump(), {"run.out": os.path.relpath(options.out, ROOT)})
    chosen = select(available, options.only, options.start)
    for notebook in chosen:
        notebook.read()  # a broken one is told before anything runs
    check_files(params)
    if options.dry_run:
        preview(RunState(params, available), chosen, options.force)
        return DONE
    make_way(params, options.force)
    ran = run(params, chosen, available, options.force)
    report = params.run_folder / "report.html"
    if ran or not report.exists():
        from .report.build import build_report  # here: a rerun with nothing to do must be quick

        state = RunState(params, available)
        build_report(params, {n.stem: reason for n in available if (reason := state.stale(n))})
    print(f"report: {_shown(report)}", *warnings(params), sep="\n")
    return DONE


def show_list(available: Sequence[Notebook]) -> int:
    for notebook in available:
        named = f" (only by --only {notebook.stem[:2]})" if notebook.on_request() else ""
        print(f"{notebook.stem:<18} {notebook.title()}{named}")
    return DONE


def compare(runs: Sequence[str]) -> int:
    from .common.quiet import quiet

    quiet()
    from .report.compare import build_comparison

    print(f"comparison: {_shown(build_comparison(runs))}")
    return DONE


def warnings(params: Params) -> list[str]:
    """What the run's training warned of: a missed budget, a collapsed router."""
    path = params.run_folder / "provenance.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return [f"warning: {line}" for line in known.get("warnings", [])]
