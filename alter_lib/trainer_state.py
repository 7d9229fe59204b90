"""What a checkpoint holds of a Trainer, and how it goes on from one, on any number of processes."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import checkpoints
from .adapters import trainable
from .params import Params, ParamsError

if TYPE_CHECKING:
    from .trainer import Trainer

SECTIONS = ("backbone", "cost", "data", "hypernetwork", "loss", "training")
# How a run is executed, not what it computes: up to rounding the result stays the same
EXECUTION = {("backbone", "device"), ("data", "workers"), ("data", "cache_folder")} | {
    ("training", key)
    for key in ("checkpoint_every", "keep_checkpoints", "num_processes", "gradient_accumulation_steps",
                "gradient_checkpointing", "compile", "trackers")
}  # fmt: skip


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
        "params": {name: trainer.params.dump()[name] for name in SECTIONS},
        "schedules": {name: optimizer.schedule.state_dict() for name, optimizer in trainer.optimizers.items()},
        "scaler": scaler.state_dict() if scaler else None,
    }
    checkpoints.save(folder, trainer.step_count, tensors, state, trainer.params.training.keep_checkpoints)


def restore(trainer: "Trainer", path: Path) -> None:
    """Go on from a checkpoint. Raises ParamsError, one line a key, where it was made with other params."""
    state = checkpoints.state(path)
    if differing := differences(path, state["params"], trainer.params):
        raise ParamsError(differing)
    trainer.student.load_state_dict({**trainer.student.state_dict(), **checkpoints.tensors(path, "student")})
    trainer.net.load_state_dict(checkpoints.tensors(path, "hypernetwork"))
    for name, optimizer in trainer.optimizers.items():
        optimizer.restore(checkpoints.tensors(path, f"optimizer_{name}"), state["schedules"][name])
    if state["scaler"]:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    if trainer.ema:
        shadows = checkpoints.tensors(path, "ema")
        trainer.ema.shadow_params = [shadows[str(i)].to(p.device) for i, p in enumerate(trainer.theta)]
        trainer.ema.optimization_step = state["step"]
    trainer.step_count = state["step"]
    if (path / "plan.safetensors").exists():
        trainer.final_plan = replace(trainer.current_plan(), **checkpoints.tensors(path, "plan"))
    trainer.refresh_masks()


def differences(path: Path, then: dict[str, dict[str, Any]], params: Params) -> list[str]:
    """One line for each parameter that changes what is computed and is not as it was."""
    now = params.dump()
    return [
        f"{path}: made with {section}.{key} = {then[section].get(key)!r}, now {value!r}: "
        "set another run.name or remove the run folder"
        for section in SECTIONS
        for key, value in now[section].items()
        if (section, key) not in EXECUTION and then[section].get(key) != value
    ]
