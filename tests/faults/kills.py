"""Kills at random instants, and what is left after the next run: the same weights and metrics, bit for bit.

python tests/faults/kills.py --trainings 20 --runs 10 --out results/faults.json

Each trial starts the smoke params in a fresh folder, ends the process at a random instant of an uninterrupted run's
duration (kill -9, SIGTERM, Ctrl-C, or kill -9 with the damage of a power cut), starts the same command again, and
compares the result with the uninterrupted one's. CPU only: elsewhere kernels are not deterministic.
"""

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil

from alter_lib import provenance
from alter_lib.common import files
from alter_lib.params import ROOT

KINDS = ("kill -9", "power cut", "SIGTERM", "Ctrl-C")
SIGNALS = {"SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}
ARGUMENTS = ("--params", "params/smoke.yaml", "--set", "backbone.device=cpu")


class Process(Protocol):
    pid: int

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code, None while it runs."""


@dataclass
class Trained:
    """`python -m alter_lib.training` in a process that was forked from one which has imported everything."""

    arguments: Sequence[str]
    log: Path
    pid: int = 0

    def __post_init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["alter_lib.training.__main__"])
        self.process = context.Process(target=train_as_command, args=(list(self.arguments), str(self.log)))
        self.process.start()
        self.pid = self.process.pid

    def wait(self, timeout: float | None = None) -> int | None:
        self.process.join(timeout)
        return self.process.exitcode


def train_as_command(arguments: list[str], log: str) -> None:
    """What the command does, in this process."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from alter_lib.training.__main__ import main

    sys.argv = ["training", *arguments]
    sys.exit(main())


class Ran:
    """`python run_all.py`, with the kernels that it starts."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        with log.open("a") as file:
            command = [sys.executable, "run_all.py", *arguments]
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
            )  # fmt: skip
        self.pid = self.process.pid

    def wait(self, timeout: float | None = None) -> int | None:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None


Start = Callable[[Sequence[str], Path], Process]


@dataclass
class Tally:
    """Of one kind of command: how many kills, of what, and what was not as it should be."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    resumed: int = 0
    identical: int = 0
    faults: list[str] = field(default_factory=list)

    def content(self) -> dict[str, Any]:
        return {"kills": sum(self.kills.values()), "of": self.kills, "resumed": self.resumed,
                "identical": self.identical, "faults": self.faults}  # fmt: skip


def measure(
    start: Start, arguments: Sequence[str], count: int, seed: int, folder: Path, whole: Path | None = None
) -> Tally:
    """`count` trials in folders of their own below `folder`. whole: the run folder of an uninterrupted run of all
    notebooks, None: make one."""
    random_source, tally = random.Random(seed), Tally()
    folder.mkdir(parents=True, exist_ok=True)
    start(["--help"], folder / "log").wait()  # imports once: later ones are faster
    whole, seconds = (whole, notebook_seconds(whole)) if whole else timed(start, arguments, folder / "whole")
    expected = results(whole)
    for trial in range(count):
        kind, out = KINDS[trial % len(KINDS)], folder / f"trial-{trial}"
        while not killed(start, arguments, out, kind, seconds * random_source.random(), random_source):
            out = out.with_name(out.name + "-again")  # it had ended before: another instant
        tally.kills[kind] += 1
        try:
            run = finished(start, arguments, out)
        except RuntimeError as error:
            tally.faults.append(f"{trial}, {kind}: {error}")
            continue
        tally.resumed += 1
        found = results(run)
        differing = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
        tally.identical += not differing
        tally.faults += [f"{trial}, {kind}: {name} differs" for name in sorted(differing)]
    return tally


def timed(start: Start, arguments: Sequence[str], out: Path) -> tuple[Path, float]:
    """The run folder of an uninterrupted command, and its seconds."""
    began = time.monotonic()
    return finished(start, arguments, out), time.monotonic() - began


def notebook_seconds(whole: Path) -> float:
    took = json.loads((whole / "provenance.json").read_text())["wall_seconds"]
    return sum(value for name, value in took.items() if name[0].isdigit())


def finished(start: Start, arguments: Sequence[str], out: Path) -> Path:
    """The run folder after the command has gone through. Raises RuntimeError where it ends otherwise."""
    out.mkdir(parents=True, exist_ok=True)
    log = out / "log"
    code = start([*arguments, f"run.out={out}"], log).wait()
    if code != 0:
        raise RuntimeError(f"exit code {code}: {log.read_text()[-400:]}")
    return out / "smoke"


def killed(
    start: Start, arguments: Sequence[str], out: Path, kind: str, seconds: float, random_source: random.Random
) -> bool:
    """Start the command and end it after `seconds`; False where it has ended by itself before."""
    out.mkdir(parents=True)
    process = start([*arguments, f"run.out={out}"], out / "log")
    if process.wait(seconds) is not None:
        return False
    if kind in SIGNALS:
        os.kill(process.pid, SIGNALS[kind])
        process.wait()
        return True
    for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    if kind == "power cut":
        cut_power(out / "smoke", random_source)
    return True


def cut_power(run: Path, random_source: random.Random) -> None:
    """What a disk may have lost that was not told to keep it: the end of anything under a temporary name, and the rows
    of history.csv since the last checkpoint."""
    for partial in run.rglob("*.partial*"):
        if partial.is_file() and not partial.is_symlink():
            os.truncate(partial, random_source.randint(0, partial.stat().st_size))
    history, state = run / "history.csv", run / "checkpoints" / "latest" / "state.json"
    if history.exists():
        kept = 1 + json.loads(state.read_text())["step"] if state.exists() else 0
        whole = sum(map(len, history.read_bytes().splitlines(keepends=True)[:kept]))
        os.truncate(history, random_source.randint(whole, history.stat().st_size))


def results(run: Path) -> dict[str, str]:
    """{what: sha256} of all that has to be the same: weights, plan, history without times, metrics and pictures."""
    found = {str(path.relative_to(run)): path.read_bytes() for path in (run / "alter").rglob("*.safetensors")}
    plan = json.loads((run / "alter" / "plan.json").read_text())
    found["plan"] = json.dumps({key: value for key, value in plan.items() if key != "provenance"}).encode()
    with (run / "history.csv").open(newline="") as file:
        rows = [{key: value for key, value in row.items() if "second" not in key} for row in csv.DictReader(file)]
    found["history"] = json.dumps(rows).encode()
    if (run / "metrics.json").exists():
        found["metrics"] = json.dumps(json.loads((run / "metrics.json").read_text())["metrics"]).encode()
    for name in ("plan_history.npz", "grid.npz"):
        if (run / name).exists():
            with np.load(run / name) as arrays:
                found |= {f"{name}/{key}": arrays[key].tobytes() for key in arrays.files}
    return {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=20)
    parser.add_argument("--runs", type=int, default=10, help="of run_all.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    options = parser.parse_args()
    began, tallies = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, start, count in (("training", Trained, options.trainings), ("run_all", Ran, options.runs)):
            tallies[name] = measure(start, ARGUMENTS, count, options.seed, Path(folder) / name) if count else Tally()
            print(f"{name}: {json.dumps(tallies[name].content())}", flush=True)
    seconds = round(time.monotonic() - began)
    facts = {"command": provenance.command(), **provenance.git_state(), "hardware": provenance.hardware()}
    content = {name: tally.content() for name, tally in tallies.items()}
    files.write_json(options.out, {**content, "seed": options.seed, "seconds": seconds, **facts})
    return int(any(tally.faults for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
