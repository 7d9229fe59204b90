"""What made a run: provenance.json (commit, versions, device, seeds, command, wall times) and params.yaml (resolved).

Needs neither torch nor diffusers, so that the runner starts at once.
"""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from .common.files import write_json, write_text
from .params import ROOT, Params

PACKAGES = (
    "torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "torchmetrics", "pydantic", "papermill",
)  # fmt: skip


def now() -> str:
    """The time in UTC, to the second: 2026-01-31T12:00:00+00:00."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_state(folder: Path = ROOT) -> dict[str, Any]:
    """{"commit": 40 hex digits, "dirty": bool}; both None outside a git checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, timeout=30
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def versions() -> dict[str, str | None]:
    """Installed versions of Python and of the packages that can change a result; None: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def hardware() -> dict[str, Any]:
    """{"cpu": model, "cores": usable, "gpus": [names of NVIDIA GPUs], "os": system and architecture}."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": _cpu(), "cores": cores, "gpus": _gpus(), "os": f"{platform.system()} {platform.machine()}"}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpus() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.split("\n")[:-1]


_ENDS = r"(?![\w.-])"
_PLACES = (
    (re.escape(sys.prefix) + _ENDS, "<env>"),  # first: it may lie inside the repository
    (re.escape(f"{ROOT}{os.sep}"), ""),
    (re.escape(str(ROOT)) + _ENDS, "."),
    (re.escape(tempfile.gettempdir()) + r"/ipykernel_\d+/\d+\.py", "<cell>"),
    (re.escape(str(Path.home())) + r"(?=/)", "~"),
)


def relative(text: str) -> str:
    """`text` without the places of this machine: the repository, the environment and the home folder are cut away."""
    for pattern, short in _PLACES:
        text = re.sub(pattern, short, text)
    return text


def command() -> str | None:
    """The command line of this process, as one would type it; None in a notebook's kernel, which has no such line."""
    app = sys.modules.get("ipykernel.kernelapp")  # "ipykernel" itself is also there once kernels were looked for
    if app and app.IPKernelApp.initialized():
        return None
    return relative(shlex.join(["python", *sys.argv]))


def record(params: Params, folder: Path, **extra: Any) -> dict[str, Any]:
    """Write params.yaml (resolved) and provenance.json into `folder`; returns what the latter holds.

    A second record of the same run refreshes the first. A mapping in `extra` is merged into the one recorded under
    the same name (`wall_seconds={"03_training": 12.3}`), any other value replaces it.
    """
    path = folder / "provenance.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    seeds = {name: section["seed"] for name, section in params.dump().items() if "seed" in section}
    new = {
        **old,
        "date": now(),
        "command": command() or old.get("command"),
        **git_state(),
        "versions": versions(),
        "hardware": hardware(),
        "device": params.backbone.device,
        "seeds": seeds,
    }
    for name, value in extra.items():
        new[name] = {**old.get(name, {}), **value} if isinstance(value, Mapping) else value
    write_text(folder / "params.yaml", yaml.safe_dump(params.dump(), sort_keys=False, allow_unicode=True))
    write_json(path, new)
    return new
