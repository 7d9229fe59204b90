"""Latency of each prunable layer on the device at hand: what users pay, where MACs are what papers count."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from ..common.files import write_json
from ..params import Params, ParamsError
from ..plan.costs import CostTable
from .base import Backbone
from .timing import Call, call_at, interleaved, random_inputs

FILE_NAME = "latency.json"
CUDA_CALLS = 10  # between two synchronisations: kernels queue up, as they do while sampling


def with_latency(backbone: Backbone, params: Params) -> Backbone:
    """`backbone` with a table of latencies where params.cost.unit asks for one, else itself.

    The table is measured once for a run and kept in its folder, so that a resumed run goes on with the same costs.
    Raises ParamsError on the meta device, or where the run folder holds a table of another device.
    """
    if params.cost.unit == "macs":
        return backbone
    device = backbone.denoiser.device
    if device.type == "meta":
        raise ParamsError(["cost.unit: latency is measured on a device that runs; meta does not"])
    path = params.run_folder / FILE_NAME
    if not path.exists():
        with torch.random.fork_rng():
            measured = profile(backbone, params.cost.batch_size)
        write_json(path, asdict(measured))
    table = read_table(path)
    if table.device != device_name(device):
        raise ParamsError([f"{path}: measured on {table.device}, this is {device_name(device)}; remove it to go on"])
    return replace(backbone, latency=table)


def read_table(path: Path) -> CostTable:
    content = json.loads(path.read_text(encoding="utf-8"))
    return CostTable(**{**content, "layers": tuple(content["layers"]), "resolution": tuple(content["resolution"])})


def device_name(device: torch.device) -> str:
    """What a latency goes with: the GPU, or the kind of device and its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


@torch.no_grad()
def profile(backbone: Backbone, batch_size: int = 1, repeats: int = 15) -> CostTable:
    """Nanoseconds of each prunable layer, and of everything else, at the backbone's resolution.

    Medians of `repeats` rounds after a warm-up, synchronised; in each the whole network and all layers take turns, on
    the inputs that a forward on random values gives them.
    """
    denoiser, modules = backbone.denoiser, [layer.module for layer in backbone.layers]
    whole = call_at(denoiser, random_inputs(backbone.pipeline, backbone.resolution, batch_size))
    calls: dict[int | None, Call] = {
        i: lambda module=module, seen=seen: module(*seen[0], **seen[1])
        for i, (module, seen) in enumerate(zip(modules, seen_inputs(whole, modules), strict=True))
    }
    count = CUDA_CALLS if denoiser.device.type == "cuda" else 1
    seconds = interleaved({**calls, None: whole}, denoiser.device, repeats, count, "latency of the layers")
    layers = tuple(max(1, round(1e9 * median(seconds[i]))) for i in calls)
    fixed = max(0, round(1e9 * median(seconds[None])) - sum(layers))
    dtype = str(denoiser.dtype).removeprefix("torch.")
    return CostTable(
        layers,
        fixed,
        convention=f"median of {repeats} calls, batch {batch_size}, {dtype}, eager",
        resolution=backbone.resolution,
        unit="latency",
        device=device_name(denoiser.device),
    )


def seen_inputs(whole: Call, modules: list[nn.Module]) -> list[tuple[tuple, dict[str, Any]]]:
    """(arguments, keywords) of each module during one call of the network."""
    seen: dict[nn.Module, tuple[tuple, dict[str, Any]]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda m, args, kwargs: seen.update({m: (args, kwargs)}), with_kwargs=True)
        for module in modules
    ]
    whole()
    for hook in hooks:
        hook.remove()
    return [seen[module] for module in modules]
