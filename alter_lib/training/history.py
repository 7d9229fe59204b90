"""What a run records of each step: history.csv, the trackers, and the clock that tells the phases apart."""

import csv
import os
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator

from ..common.files import whole
from ..params import Params

HISTORY = (
    "step",
    "phase",
    "L_H",
    "L_perf",
    "L_ratio",
    "L_balance",
    "L_U",
    "L_denoise",
    "L_outKD",
    "L_featKD",
    "ratio",
    "sampled_ratio",
    "experts_used",
    "learning_rate",
    "hypernetwork_learning_rate",
    "grad_norm",
    "hypernetwork_grad_norm",
    "images_per_second",
    "data_seconds",
    "teacher_seconds",
    "hypernetwork_seconds",
    "backbone_seconds",
    "gpu_memory_gib",
)
Row = Mapping[str, float | str]


class Clock:
    """Seconds of the phases of one step. On CUDA from events in the stream: no synchronisation but at the end."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start()

    def start(self) -> None:
        self.marks: list[tuple[str, float | torch.cuda.Event]] = [("", self.now())]

    def now(self) -> float | torch.cuda.Event:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def mark(self, phase: str) -> None:
        """What went on since the last mark was `phase`."""
        self.marks.append((phase, self.now()))

    def seconds(self) -> dict[str, float]:
        """{"teacher_seconds": s} for each phase marked since `start`; a phase marked twice counts both."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        found: dict[str, float] = {}
        for (_, began), (phase, ended) in zip(self.marks, self.marks[1:], strict=False):
            took = ended - began if isinstance(ended, float) else began.elapsed_time(ended) / 1000
            found[f"{phase}_seconds"] = found.get(f"{phase}_seconds", 0.0) + took
        return found


def gpu_memory(device: torch.device) -> dict[str, float]:
    """Most memory that this process's tensors held since its start, in GiB; nothing on a CPU."""
    return {"gpu_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30} if device.type == "cuda" else {}


class History:
    """history.csv, line-buffered, and the trackers of training.trackers in logs/; on the main process alone.

    Rows up to `step` are kept: those after the checkpoint that a run goes on from are made again.
    """

    def __init__(self, accelerator: Accelerator, params: Params, step: int) -> None:
        self.accelerator, self.file = accelerator, None
        if accelerator.is_main_process:
            path = params.run_folder / "history.csv"
            rows = earlier(path, step)
            with whole(path) as partial, partial.open("w", newline="") as file:
                writer = csv.DictWriter(file, HISTORY)
                writer.writeheader()
                writer.writerows(rows)
            self.file = path.open("a", newline="", buffering=1)
            self.writer = csv.DictWriter(self.file, HISTORY)
        if accelerator.log_with:
            accelerator.init_trackers(params.run.name, flat(params))

    def write(self, row: Row) -> None:
        if self.file:
            self.writer.writerow({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()})
        self.accelerator.log({key: v for key, v in row.items() if not isinstance(v, str)}, step=row["step"])

    def to_disk(self) -> None:
        """Called before a checkpoint is written: it never knows of a step whose row a power cut could still take."""
        if self.file:
            os.fsync(self.file.fileno())

    def close(self) -> None:
        """Ends the trackers, and the group of processes with them."""
        if self.file:
            self.file.close()
        self.accelerator.end_training()


def training_seconds(folder: Path, batch_size: int) -> float:
    """Wall-clock of all steps in `folder`/history.csv, however often the training was interrupted."""
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        return round(sum(batch_size / float(row["images_per_second"]) for row in csv.DictReader(file)), 1)


def earlier(path: Path, step: int) -> list[dict[str, str]]:
    """The rows of a history.csv up to `step`, or to the first that a kill or a power cut left incomplete."""
    if not path.exists():
        return []
    rows: list[dict[str, str]] = []
    with path.open(newline="", errors="replace") as file:
        for row in csv.DictReader(file):
            if len(rows) == step or row["step"] != str(len(rows) + 1) or None in (*row, *row.values()):
                break
            rows.append(row)
    return rows


def flat(params: Params) -> dict[str, str | float | bool]:
    """`{"training.steps": 400}` and so on: what trackers show beside the curves."""
    items = ((f"{section}.{key}", value) for section, keys in params.dump().items() for key, value in keys.items())
    return {key: value if isinstance(value, (str, float, int)) else str(value) for key, value in items}
