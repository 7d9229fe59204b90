"""Training checkpoints: safetensors and JSON in one folder a step, written whole or not at all."""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

KEEP = 2  # the last, and a spare


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's moments and step counts as `index.name` tensors."""
    return {
        f"{index}.{name}": torch.as_tensor(value).contiguous()
        for index, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
    }


def unshared(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of `module` with shared weights (DiT's embedder) under their first name alone."""
    first: dict[int, str] = {}
    state = module.state_dict()
    return {name: value for name, value in state.items() if first.setdefault(value.data_ptr(), name) == name}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save(folder: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict) -> Path:
    """checkpoints/step-000200/{name}.safetensors and state.json; older ones than the last KEEP are removed."""
    target, partial = folder / f"step-{step:06d}", folder / f"step-{step:06d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, values in tensors.items():
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in values.items()}, partial / f"{name}.safetensors"
        )
    (partial / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    for old in complete(folder)[:-KEEP]:
        shutil.rmtree(old)
    return target


def complete(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".partial")


def load(path: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict]:
    """The tensors by file name and state.json of one checkpoint."""
    return {file.stem: load_file(file) for file in path.glob("*.safetensors")}, json.loads(
        (path / "state.json").read_text()
    )
