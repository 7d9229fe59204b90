"""Taking time: calls of a denoiser on random inputs, in turns, synchronised."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn
from tqdm.auto import tqdm

from .base import ADAPTERS, denoiser_of

Call = Callable[[], object]


def random_inputs(pipe: DiffusionPipeline, resolution: tuple[int, int], batch_size: int) -> list[torch.Tensor]:
    """Positional inputs of one forward: the timestep in second place is a scalar, the others are [batch_size, ...].
    Random values: zeros would flatter some kernels."""
    denoiser, tokenizer = denoiser_of(pipe), getattr(pipe, "tokenizer", None)
    tokens = tokenizer.model_max_length if tokenizer else 77
    inputs = ADAPTERS[type(denoiser).__name__].example_inputs(denoiser, resolution, tokens, denoiser.device)
    inputs = [value.expand(batch_size, *value.shape[1:]) for value in inputs.values()]
    values = [
        torch.randn_like(value, dtype=denoiser.dtype) if value.is_floating_point() else value.clone()
        for value in inputs
    ]
    return [values[0], torch.zeros((), dtype=torch.long, device=denoiser.device), *values[2:]]


def call_at(
    denoiser: nn.Module,
    inputs: list[torch.Tensor],
    t: torch.Tensor | None = None,
    forward: Callable[..., object] | None = None,
) -> Call:
    """A call of `denoiser` as pipelines make it. t: a scalar in place of `inputs`' own; forward: in place of the
    denoiser's."""
    sample, timestep, *rest = inputs
    timestep = ADAPTERS[type(denoiser).__name__].timestep_input(timestep if t is None else t, len(sample))
    return lambda: (forward or denoiser)(sample, timestep, *rest, return_dict=False)


def timed(call: Call, device: torch.device, count: int = 1) -> float:
    """Wall-clock seconds of a `call`, the mean of `count` in a row, with the device's queue empty before and after."""
    synchronize = getattr(getattr(torch, device.type), "synchronize", lambda: None)
    synchronize()
    start = time.perf_counter()
    for _ in range(count):
        call()
    synchronize()
    return (time.perf_counter() - start) / count


@torch.no_grad()
def interleaved(
    calls: Mapping[Any, Call], device: torch.device, repeats: int, count: int = 1, description: str | None = None
) -> dict[Any, list[float]]:
    """Seconds of each call, `repeats` times. All take turns within a round, so that a machine that grows slower slows
    all of them alike; the first round warms up (and compiles) and does not count."""
    seconds: dict[Any, list[float]] = {key: [] for key in calls}
    for repeat in tqdm(range(repeats + 1), desc=description, unit="round", leave=False, disable=description is None):
        for key, call in calls.items():
            elapsed = timed(call, device, count)
            if repeat:
                seconds[key].append(elapsed)
    return seconds
