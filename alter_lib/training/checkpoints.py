"""Training checkpoints: safetensors and JSON in one folder a step, written whole or not at all.

`checkpoints/step-000200/` holds {name}.safetensors and state.json, which lists the SHA-256 of each of them;
`checkpoints/latest` is a link to the newest. A crash, a full disk or a kill in the middle leaves a `.partial` folder
that nobody reads and the next save removes; what the disk damaged later is found by its hash.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..assets import sha256
from ..common.files import remove, to_disk
from ..params import ParamsError

STATE = "state.json"
Tensors = dict[str, torch.Tensor]


def unshared(module: torch.nn.Module) -> Tensors:
    """The state dict of `module` with shared weights (DiT's embedder) under their first name alone."""
    first: dict[int, str] = {}
    state = module.state_dict()
    return {name: value for name, value in state.items() if first.setdefault(value.data_ptr(), name) == name}


def save(folder: Path, step: int, tensors: dict[str, Tensors], state: dict[str, Any], keep: int) -> Path:
    """Write the checkpoint of `step` into `folder` and remove older ones than the last `keep`; returns its path.

    On a full or read-only disk (`files.disk_fault`) the checkpoints that are there stay.
    """
    target, partial = folder / f"step-{step:06d}", folder / f"step-{step:06d}.partial"
    for left_over in folder.glob("*.partial"):  # of a process that was killed: one at a time writes here
        remove(left_over)
    partial.mkdir(parents=True)
    try:
        fill(partial, step, tensors, state)
    except BaseException:
        remove(partial)  # or it would fill a full disk
        raise
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    to_disk(folder)
    point_to(target)
    to_disk(folder)
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def fill(partial: Path, step: int, tensors: dict[str, Tensors], state: dict[str, Any]) -> None:
    """The files of a checkpoint, onto the disk."""
    hashes = {}
    for name, values in tensors.items():
        file = partial / f"{name}.safetensors"
        save_file({key: value.detach().cpu().contiguous() for key, value in values.items()}, file)
        hashes[file.name] = sha256(file)
        to_disk(file)
    (partial / STATE).write_text(json.dumps({"step": step, "sha256": hashes, **state}, indent=1))
    to_disk(partial / STATE)
    to_disk(partial)


def point_to(target: Path) -> None:
    """`latest`, beside the checkpoint that it names."""
    link = target.with_name("latest.partial")
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    os.replace(link, target.with_name("latest"))


def complete(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted((path for path in folder.glob("step-*") if not path.suffix), key=lambda path: int(path.name[5:]))


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, None where each file is the one that was written."""
    try:
        hashes = json.loads((path / STATE).read_text())["sha256"]
        wrong = [name for name, value in hashes.items() if sha256(path / name) != value]
    except (OSError, ValueError, KeyError) as error:
        return str(error)
    return f"{wrong[0]} is not the file that was written" if wrong else None


def last_whole(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; None where there is none at all. Damaged ones are set aside with a line.

    Raises ParamsError where every one is damaged; they stay where they are.
    """
    damaged: dict[Path, str] = {}
    for path in reversed(complete(folder)):
        if reason := damage(path):
            damaged[path] = reason
            continue
        for other, why in damaged.items():
            aside = other.with_suffix(".damaged")
            remove(aside)  # an earlier one of the same step
            other.rename(aside)
            print(f"checkpoints: {other.name} is damaged ({why}): going on from {path.name}", file=sys.stderr)
        return path
    if damaged:
        why = "; ".join(f"{path.name}: {reason}" for path, reason in damaged.items())
        raise ParamsError([f"{folder}: no whole checkpoint is left ({why}); remove the folder to start again"])
    return None


def state(path: Path) -> dict[str, Any]:
    """state.json of one checkpoint."""
    return json.loads((path / STATE).read_text())


def tensors(path: Path, name: str) -> Tensors:
    """{name}.safetensors of one checkpoint, on the CPU."""
    return load_file(path / f"{name}.safetensors")
