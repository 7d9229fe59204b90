"""The student after some of its updates (`training.snapshots`), for learning curves: weights as an artefact would hold
them, and the plan of that moment, in runs/<name>/snapshots/update-000200/."""

from pathlib import Path
from typing import TYPE_CHECKING

from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from ..backbones import denoiser_of
from ..common.files import whole
from ..inference import apply_plan
from ..plan import ExpertPlan
from . import checkpoints

if TYPE_CHECKING:
    from .trainer import Trainer

WEIGHTS = "denoiser.safetensors"


def snapshot_folder(run_folder: Path, updates: int) -> Path:
    return run_folder / "snapshots" / f"update-{updates:06d}"


def save(trainer: "Trainer", run_folder: Path) -> None:
    """Keep the trainer's student, its moving average where it has one, in half precision; whole or not at all."""
    with trainer.averaged():
        state = checkpoints.unshared(trainer.student)
        weights = {name: value.half().cpu().contiguous() for name, value in state.items()}
    with whole(snapshot_folder(run_folder, trainer.theta_updates)) as folder:
        folder.mkdir()
        save_file(weights, folder / WEIGHTS)
        trainer.current_plan().save(folder)


def load(pipeline: DiffusionPipeline, run_folder: Path, updates: int) -> ExpertPlan:
    """Put a snapshot's weights into `pipeline` and apply its plan, which is returned.

    Raises FileNotFoundError where the run kept none after so many updates.
    """
    folder, denoiser = snapshot_folder(run_folder, updates), denoiser_of(pipeline)
    if not folder.is_dir():
        raise FileNotFoundError(f"{run_folder.name}/snapshots: none after {updates} updates; train this run anew")
    denoiser.load_state_dict(denoiser.state_dict() | load_file(folder / WEIGHTS))
    plan = ExpertPlan.load(folder)
    apply_plan(pipeline, plan)
    return plan
