"""`train`: Algorithm 1 from the first step to the artefact, with progress, history, checkpoints and resume."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm

from .. import provenance
from ..inference import save_pipeline
from ..params import Params
from ..plan import ExpertPlan
from ..plan.warnings import plan_warnings
from ..run_folder.lock import locked
from . import checkpoints, memory, snapshots, trainer_state
from .history import History, training_seconds
from .trainer import Trainer

Callback = Callable[[Trainer, dict], None]


@dataclass(frozen=True)
class TrainingResult:
    """plan: the final ExpertPlan; folder: runs/<name>; artefact: its alter/; steps in all; seconds of this call."""

    plan: ExpertPlan
    folder: Path
    artefact: Path
    steps: int
    seconds: float


def train(params: Params, callback: Callback | None = None) -> TrainingResult:
    """Train a run to its end, going on from its last checkpoint, and write its artefact (again, where it has ended).

    callback(trainer, row) is called after each step with that step's row of history.csv.
    Raises ParamsError where the run folder holds a run with other params.
    """
    with locked(params.run_folder, "training") if os.environ.get("RANK", "0") == "0" else nullcontext():
        return _train(params, callback)


def _train(params: Params, callback: Callback | None) -> TrainingResult:
    started, trainer = time.perf_counter(), Trainer(params)
    folder, artefact = params.run_folder, params.run_folder / "alter"
    resume(trainer, folder / "checkpoints")
    history = History(trainer.accelerator, params, trainer.step_count)
    stopped = fit(trainer, folder / "checkpoints", history, callback)
    if not stopped and trainer.accelerator.is_main_process:
        conclude(trainer)
        write_artefact(trainer, artefact)  # whatever lies there: a part of it may be lost, damaged or edited
    trainer.accelerator.wait_for_everyone()
    history.close()
    if stopped:
        raise KeyboardInterrupt
    return TrainingResult(trainer.current_plan(), folder, artefact, trainer.step_count, time.perf_counter() - started)


def resume(trainer: Trainer, folder: Path) -> None:
    """Go on from the newest whole checkpoint, if there is one: the main process looks, all of them load it."""
    found = [checkpoints.last_whole(folder) if trainer.accelerator.is_main_process else None]
    if path := broadcast_object_list(found)[0]:
        trainer_state.restore(trainer, path)


def fit(trainer: Trainer, folder: Path, history: History, callback: Callback | None) -> bool:
    """Steps until the end; a checkpoint every `checkpoint_every`, and when asked to stop (True); the snapshots."""
    params, main, stopped = trainer.params.training, trainer.accelerator.is_main_process, False
    bar = tqdm(total=params.iterations, initial=trainer.step_count, desc="training", disable=not main, mininterval=1)
    with stop_requests() as stops, bar:
        while trainer.step_count < params.iterations and not stopped:
            began = time.perf_counter()
            row = memory.step(trainer)
            row["images_per_second"] = params.batch_size / (time.perf_counter() - began)
            bar.update()
            bar.set_postfix(L_U=f"{row.get('L_U', row.get('L_perf')):.4f}", ratio=f"{row['ratio']:.3f}", refresh=False)
            history.write(row)
            if callback:
                callback(trainer, row)
            if main and row["phase"] != "hypernetwork" and trainer.theta_updates in params.snapshots:
                snapshots.save(trainer, folder.parent)
            stopped = anyone(trainer.accelerator, bool(stops))
            due = trainer.step_count % params.checkpoint_every == 0 or trainer.step_count == params.iterations
            if main and (due or stopped):
                history.to_disk()
                trainer_state.save(trainer, folder)
    return stopped


def anyone(accelerator: Accelerator, asked: bool) -> bool:
    """Whether any process was asked to stop. All have to leave after the same step: one that went on would wait for
    the others' gradients for ever."""
    if accelerator.num_processes == 1:
        return asked
    return bool(accelerator.reduce(torch.tensor(float(asked), device=accelerator.device), "sum"))


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM are collected instead of raised: a step is finished before it is saved, or a resumed run would
    not be the uninterrupted one."""
    stops: list[int] = []
    before = {
        number: signal.signal(number, lambda received, _frame: stops.append(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def conclude(trainer: Trainer) -> None:
    """What the summaries say of a training: its warnings, its seconds and processes, in provenance.json."""
    params, warnings = trainer.params, plan_warnings(trainer.current_plan())
    print(*warnings, sep="\n", end="\n" * bool(warnings), file=sys.stderr)
    seconds = training_seconds(params.run_folder, params.training.batch_size)
    measured = {"wall_seconds": {"training": seconds}, "processes": trainer.accelerator.num_processes}
    provenance.record(params, params.run_folder, warnings=warnings, **measured)


def write_artefact(trainer: Trainer, folder: Path) -> None:
    """The moving-average weights (the last ones without an average) and the plan, as a diffusers pipeline folder.

    LoRA's adapters are merged into the weights, for good: a run writes its artefact at its end.
    """
    with trainer.averaged():
        if trainer.adapters:
            trainer.adapters.merge_and_unload()
        pipeline = trainer.backbone.pipeline
        networks = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
        before = [network.dtype for network in networks]
        for network in networks:  # stored in half precision, as releases are
            network.half()
        save_pipeline(pipeline, trainer.current_plan(), folder)
        for network, dtype in zip(networks, before, strict=True):
            network.to(dtype)
