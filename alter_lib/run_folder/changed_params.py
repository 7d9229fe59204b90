"""A run folder belongs to one set of params: a run with others is refused, key by key, or the old one is set aside."""

import json
import sys
from pathlib import Path
from typing import Any

from .. import provenance
from ..params import Params, ParamsError
from .lock import locked

SECTIONS = ("run", "backbone", "cost", "data", "hypernetwork", "loss", "training")
# Names and how a run is executed, not what it computes: up to rounding the result stays the same
EXECUTION = {("run", "name"), ("run", "out"), ("backbone", "device"), ("data", "workers"), ("data", "cache_folder")} | {
    ("training", key)
    for key in ("checkpoint_every", "keep_checkpoints", "num_processes", "gradient_accumulation_steps",
                "gradient_checkpointing", "compile", "trackers", "snapshots", "max_skipped_steps")
}  # fmt: skip


def recorded(params: Params) -> dict[str, dict[str, Any]]:
    """What a checkpoint keeps of the params."""
    content = params.dump()
    return {name: content[name] for name in SECTIONS}


def differences(then: dict[str, dict[str, Any]], params: Params) -> list[str]:
    """`section.key = old, now new` for each parameter that changes what is computed. then: of a checkpoint; a key that
    is younger than it stood at its default, which leaves everything as it was."""
    found = []
    for section, keys in recorded(params).items():
        fields, old = type(getattr(params, section)).model_fields, then.get(section, keys)
        for key, value in keys.items():
            before = old.get(key, fields[key].default)
            if (section, key) not in EXECUTION and before != value:
                found.append(f"{section}.{key} = {before!r}, now {value!r}")
    return found


def refuse(made: Path, changed: list[str]) -> None:
    """Raises ParamsError, one line a key, where params have `changed` since `made`."""
    if changed:
        where = provenance.relative(str(made))
        raise ParamsError(
            [f"{where}: made with {line}: set another run.name, or --force starts anew" for line in changed]
        )


def make_way(params: Params, force: bool) -> None:
    """Called before a run starts. Raises ParamsError where its folder holds a training with other params.

    force: the old run folder is kept as <out>/.replaced/<name>-<n> instead, and a line says so.
    """
    folder = params.run_folder
    state = folder / "checkpoints" / "latest" / "state.json"
    try:
        then = json.loads(state.read_text(encoding="utf-8"))["params"]
    except (OSError, ValueError, KeyError):  # none yet, or damaged: the training looks for the spare
        return
    changed = differences(then, params)
    if not force:
        refuse(folder, changed)
    if changed:
        with locked(folder, "run"), locked(folder, "training"), locked(folder, "evaluation"):  # nobody is at work there
            aside = folder.parent / ".replaced"
            aside.mkdir(exist_ok=True)
            kept = next(path for n in range(1, 10**6) if not (path := aside / f"{folder.name}-{n}").exists())
            folder.rename(kept)
        print(f"params have changed ({'; '.join(changed)}): the old run is kept in {kept}", file=sys.stderr)
