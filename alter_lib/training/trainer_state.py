"""What a checkpoint holds of a Trainer, and how it goes on from one, on any number of processes."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..run_folder.changed_params import differences, recorded, refuse
from . import checkpoints
from .adapters import trainable

if TYPE_CHECKING:
    from .trainer import Trainer


def save(trainer: "Trainer", folder: Path) -> None:
    """Write the checkpoint of the trainer's step into `folder`. With LoRA the student's file holds the adapters."""
    tensors = {
        "student": trainable(trainer.student) if trainer.adapters else checkpoints.unshared(trainer.student),
        "hypernetwork": trainer.net.state_dict(),
        **{f"optimizer_{name}": optimizer.tensors() for name, optimizer in trainer.optimizers.items()},
    }
    if trainer.ema:
        tensors["ema"] = {str(i): shadow for i, shadow in enumerate(trainer.ema.shadow_params)}
    if trainer.final_plan is not None:
        tensors["plan"] = {"masks": trainer.masks, "routing": trainer.routing}
    scaler = trainer.accelerator.scaler
    state = {
        "params": recorded(trainer.params),
        "skipped_steps": trainer.guard.skipped,
        "schedules": {name: optimizer.schedule.state_dict() for name, optimizer in trainer.optimizers.items()},
        "scaler": scaler.state_dict() if scaler else None,
    }
    checkpoints.save(folder, trainer.step_count, tensors, state, trainer.params.training.keep_checkpoints)


def restore(trainer: "Trainer", path: Path) -> None:
    """Go on from a checkpoint. Raises ParamsError, one line a key, where it was made with other params."""
    state = checkpoints.state(path)
    refuse(path, differences(state["params"], trainer.params))
    trainer.student.load_state_dict({**trainer.student.state_dict(), **checkpoints.tensors(path, "student")})
    trainer.net.load_state_dict(checkpoints.tensors(path, "hypernetwork"))
    for name, optimizer in trainer.optimizers.items():
        optimizer.restore(checkpoints.tensors(path, f"optimizer_{name}"), state["schedules"][name])
    trainer.step_count = state["step"]
    trainer.guard.skipped = state.get("skipped_steps", 0)  # a checkpoint of an older release has none
    if state["scaler"]:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    if trainer.ema:
        shadows = checkpoints.tensors(path, "ema")
        trainer.ema.shadow_params = [shadows[str(i)].to(p.device) for i, p in enumerate(trainer.theta)]
        trainer.ema.optimization_step = trainer.theta_updates
    if (path / "plan.safetensors").exists():
        trainer.final_plan = replace(trainer.current_plan(), **checkpoints.tensors(path, "plan"))
    trainer.refresh_masks()
