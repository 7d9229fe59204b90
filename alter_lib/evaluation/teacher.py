"""The figures of the teacher and of real pictures: they never change, so a committed file may stand for making them.

    python -m alter_lib.evaluation --params params/tiny_sd.yaml --teacher-only --out results/teacher/tiny_sd.json

The file is read only if it was made from the same weights by the same protocol; otherwise the figures are made anew
and a note says which facts differ.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backbones import Backbone
from ..common.files import write_json
from ..params import Params, ParamsError, resolve
from ..provenance import command, git_state, hardware, now, versions
from .generation import Sampler, generate, sampler_scheduler, scheduler_settings, weights_hash
from .judge import Judge, Measured
from .protocol import Protocol
from .result import Metric, metrics_as_dicts

FORMAT = "alter-teacher-results/1"
REAL = "real"


def conditions(params: Params, backbone: Backbone, protocol: Protocol) -> dict[str, Any]:
    """All that the teacher's figures depend on, number of steps apart."""
    scheduler = sampler_scheduler(backbone.pipeline, params.sampling)
    config = scheduler_settings(scheduler)
    return {
        "weights": weights_hash(backbone.pipeline),
        "protocol": protocol.digest(),
        "num_images": len(protocol.prompts),
        "scheduler": type(scheduler).__name__ + " " + json.dumps(config, sort_keys=True, default=str),
        "guidance_scale": params.sampling.guidance_scale,
        "sampling_seed": params.sampling.seed,
        "bootstrap": params.evaluation.bootstrap,
        "bootstrap_seed": params.evaluation.seed,
    }


def image_folder(params: Params) -> Path:
    return params.run_folder / "evaluation"


@dataclass(frozen=True)
class Teacher:
    """Makes, reads and writes the figures of the unpruned backbone (by steps) and of real pictures (steps None)."""

    params: Params
    backbone: Backbone
    protocol: Protocol
    judge: Judge

    def images(self, steps: int, indices: Sequence[int] | None = None) -> np.ndarray:
        sampler = Sampler(self.backbone.pipeline, self.params.sampling, steps)
        return generate(sampler, self.protocol.prompts, image_folder(self.params), f"teacher-{steps}", indices)

    def figures(self, steps: int | None) -> Measured:
        if steps is None:
            return self.judge.measure(self.protocol.real, "real")
        return self.judge.measure(self.images(steps), "teacher", steps)

    def measure(self, steps: Sequence[int | None]) -> tuple[dict[int | None, Measured], list[str]]:
        """{steps: figures} and notes, read from `evaluation.teacher_results` where that fits."""
        known, notes = {}, []
        if self.params.evaluation.teacher_results:
            known, notes = self.read(resolve(self.params.evaluation.teacher_results))
        return {s: known[s] if s in known else self.figures(s) for s in steps}, notes

    def read(self, path: Path) -> tuple[dict[int | None, Measured], list[str]]:
        """Raises ParamsError for a file that is missing or of another format."""
        name = self.params.evaluation.teacher_results
        if not path.is_file():
            raise ParamsError([f"evaluation.teacher_results: no file {name}; null measures the teacher anew"])
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            raise ParamsError([f"evaluation.teacher_results: {name}: format {content.get('format')!r} is not {FORMAT}"])
        wanted, found = conditions(self.params, self.backbone, self.protocol), content["conditions"]
        differ = [key for key, value in wanted.items() if found.get(key) != value]
        if differ:
            return {}, [f"{name} is of another {', '.join(differ)}: the teacher was measured anew"]
        metrics = [Metric.of(metric) for metric in content["metrics"]]
        replicates = {int(s) if s != REAL else None: values for s, values in content["fid_alexnet_replicates"].items()}
        measured = {
            s: Measured(tuple(m for m in metrics if m.steps == s), np.asarray(v)) for s, v in replicates.items()
        }
        listed = ", ".join(str(s) for s in measured if s)
        return measured, [f"the figures of the teacher at {listed} steps and of real pictures are read from {name}"]

    def write(self, path: Path, steps: Sequence[int]) -> dict[int | None, Measured]:
        """Measure all and write the file; it names the command, the code and the machine that made it."""
        measured = {s: self.figures(s) for s in (None, *steps)}
        provenance = {
            "command": command(),
            "date": now(),
            **git_state(),
            "versions": versions(),
            "hardware": hardware(),
        }
        write_json(path, {
            "format": FORMAT,
            "provenance": provenance,
            "conditions": conditions(self.params, self.backbone, self.protocol),
            "metrics": metrics_as_dicts([metric for each in measured.values() for metric in each.metrics]),
            "fid_alexnet_replicates": {
                s or REAL: [float(f"{x:.6g}") for x in m.fid_replicates] for s, m in measured.items()
            },
        })  # fmt: skip
        return measured
