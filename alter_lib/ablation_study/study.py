"""What the ablation study consists of: workflow/study.yaml as a list of runs, with the command of each.

The Snakefile reads the same list. Needs neither torch nor pandas, since every job of the workflow loads it.
"""

import csv
import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import yaml

from ..params import ROOT, ParamsError, resolve

OTHER = os.environ.get("ALTER_STUDY", "")  # for the workflow, the command and notebook 06
STUDY = ROOT / (OTHER or "workflow/study.yaml")
COMMAND = f"{f'ALTER_STUDY={OTHER} ' if OTHER else ''}snakemake -s workflow/Snakefile --cores 2"


@dataclass(frozen=True)
class Run:
    """One training and its evaluation. changes: {"section.key": value} on the params file `params`; has_curve: its
    snapshots are evaluated, too; plan_of: the run whose final plan it is trained under, if any."""

    name: str
    params: str
    variant: str
    group: str
    seed: int
    changes: dict[str, Any]
    has_curve: bool
    plan_of: str = ""

    @property
    def options(self) -> str:
        """--params and --set of this run, as a shell reads them."""
        items = [shlex.quote(f"{key}={json.dumps(value)}") for key, value in self.changes.items()]  # JSON is YAML
        return f"--params {self.params} --set {' '.join(items)}"

    @property
    def teacher(self) -> str | None:
        """The file of the unpruned backbone's figures, which all of its runs share; None: each run evaluates it."""
        return self.changes["evaluation.teacher_results"]


@dataclass(frozen=True)
class Study:
    """out: folder of the runs; results: of the collected tables; runs: in the order of the file."""

    out: str
    results: str
    runs: tuple[Run, ...]

    @classmethod
    def load(cls, path: Path = STUDY) -> Self:
        """Raises ParamsError where the file is not there."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ParamsError([f"{path}: no such file; a study is described as in workflow/study.yaml"]) from None
        return cls(content["out"], content["results"], tuple(planned(content)))

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(run.group for run in self.runs))

    @property
    def backbones(self) -> tuple[str, ...]:
        """The stems of the params files."""
        return tuple(dict.fromkeys(Path(run.params).stem for run in self.runs))

    def results_of(self, run: Run) -> list[str]:
        """The files that a finished run has."""
        return [f"{self.out}/{run.name}/{name}.json" for name in ("metrics", "curve")[: 1 + run.has_curve]]

    @cached_property
    def committed(self) -> frozenset[str]:
        """The runs whose figures are in the tables of `results`, which are committed: they need not be run again."""
        table, curves = (runs_in(resolve(self.results) / name) for name in ("table.csv", "curves.csv"))
        return frozenset(run.name for run in self.runs if run.name in (table & curves if run.has_curve else table))

    def is_finished(self, run: Run) -> bool:
        return run.name in self.committed or all(resolve(path).is_file() for path in self.results_of(run))

    def to_run(self, group: str | None = None) -> list[str]:
        """The files that the runs (of a group) have yet to make, or have made here."""
        runs = (run for run in self.runs if group in (None, run.group) and run.name not in self.committed)
        return [path for run in runs for path in self.results_of(run)]

    def left(self) -> list[dict[str, Any]]:
        """A row a group and params file: planned and finished runs, and the command for those that are left."""
        rows = []
        for group, params in dict.fromkeys((run.group, run.params) for run in self.runs):
            runs = [run for run in self.runs if (run.group, run.params) == (group, params)]
            finished = sum(map(self.is_finished, runs))
            command = f"{COMMAND} {group}" if finished < len(runs) else ""
            rows.append({"group": group, "backbone": Path(params).stem, "runs": len(runs), "finished": finished,
                         "command for the rest": command})  # fmt: skip
        return rows


def runs_in(table: Path) -> frozenset[str]:
    """The names of the runs in a CSV of `alter_lib.collect`; none where there is no such file."""
    if not table.is_file():
        return frozenset()
    with table.open(encoding="utf-8", newline="") as file:
        return frozenset(row["run"] for row in csv.DictReader(file))


def planned(content: dict[str, Any]) -> Iterator[Run]:
    """Every run of a study.yaml; a variant's own keys come last, so that they prevail."""
    for params, backbone in content["backbones"].items():
        stem = Path(params).stem
        teacher = {"evaluation.teacher_results": f"results/teacher/{stem}.json"}
        for variant, spec in content["variants"].items():
            if stem not in spec.get("only", [stem]):
                continue
            curve = {**content["curve"], "training.snapshots": backbone["snapshots"]} if spec.get("curve") else {}
            for seed in range(spec["seeds"]):
                name = f"{stem}-{variant}-s{seed}"
                named = {"run.name": name, "run.out": content["out"], "run.seed": seed}
                plan_of = f"{stem}-{spec['plan_of']}-s{seed}" if "plan_of" in spec else ""
                plan = {"training.plan": f"{content['out']}/{plan_of}/alter"} if plan_of else {}
                changes = {**named, **teacher, **content["set"], **curve, **plan, **spec["set"]}
                yield Run(name, params, variant, spec["group"], seed, changes, bool(curve), plan_of)
