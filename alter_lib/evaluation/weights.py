"""Weights that can't come with the repository: looked for below `evaluation.weights`, fetched only if
`evaluation.download` says so, and named in one line when they are not there. Nothing stands in for them.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn

from ..assets import sha256
from ..common.faults import BadInput
from ..common.hashing import weights_hash
from ..params import Evaluation, resolve


class Need(NamedTuple):
    """what: is missing; put: where it is looked for; get: where it comes from."""

    what: str
    put: str
    get: str


class Unavailable(BadInput):
    """Something can't be measured for want of one or more `needs`."""

    def __init__(self, *needs: Need) -> None:
        super().__init__("; ".join(f"{need.what}: put it at {need.put}, from {need.get}" for need in needs))
        self.needs = needs


def all_of(*calls: Callable[[], Any]) -> list[Any]:
    """What each call returns. Raises Unavailable with the needs of all that raise it."""
    results, needs = [], []
    for call in calls:
        try:
            results.append(call())
        except Unavailable as fault:
            needs += fault.needs
    if needs:
        raise Unavailable(*needs)
    return results


def weight_file(evaluation: Evaluation, name: str, url: str, sha256_prefix: str = "") -> Path:
    """The file `name` below `evaluation.weights`, its hash checked. Raises Unavailable."""
    path, put = resolve(evaluation.weights) / name, f"{evaluation.weights}/{name}"
    if not path.is_file() and evaluation.download:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256_prefix)
        except (OSError, RuntimeError) as error:
            raise Unavailable(Need(f"{name}, the download failed ({first_line(error)})", put, url)) from None
    if not path.is_file():
        raise Unavailable(Need(name, put, url))
    if not (found := sha256(path)).startswith(sha256_prefix):
        raise Unavailable(Need(f"{name}, whole: the sha256 {found[:8]}... is not {sha256_prefix}...", put, url))
    return path


def hub_source(evaluation: Evaluation, hub_id: str) -> Path | str:
    """The folder of that name below `evaluation.weights` if it is there, else the hub id (or a folder of one's own)."""
    folder = resolve(evaluation.weights) / hub_id.split("/")[-1]
    if any((folder / name).is_file() for name in ("config.json", "model_index.json")):
        return folder
    return path if (path := resolve(hub_id)).is_dir() else hub_id


def missing_from_hub(evaluation: Evaluation, hub_id: str, error: Exception) -> Unavailable:
    """What to say when `from_pretrained` of `hub_source` failed."""
    there = isinstance(hub_source(evaluation, hub_id), Path)
    failed = f" ({first_line(error)})" if evaluation.download or there else ""
    put = f"{evaluation.weights}/{hub_id.split('/')[-1]}/"
    return Unavailable(Need(f"{hub_id}{failed}", put, f"https://huggingface.co/{hub_id}, or evaluation.download: true"))


def optional_module(name: str, package: str) -> ModuleType:
    """A module of the `eval` extra. Raises Unavailable when it can't be imported, whatever the reason."""
    try:
        return import_module(name)
    except Exception as error:  # torchvision beside another build of torch raises a RuntimeError
        why = "" if isinstance(error, ModuleNotFoundError) and error.name == name.split(".")[0] else first_line(error)
        what = f"package {package}" + (f" ({why})" if why else "")
        get = "pip install -e .[eval], with a torchvision built for this torch"
        raise Unavailable(Need(what, "the environment", get)) from None


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def state_hash(module: nn.Module) -> str:
    """The first 16 hex digits of `weights_hash`: what a figure says of its extractor."""
    return weights_hash(module)[:16]
