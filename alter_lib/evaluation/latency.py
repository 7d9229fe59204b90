"""Time and memory of whole images on the device at hand: text encoder, denoiser, decoder."""

import resource
import sys

import numpy as np
import torch

from ..backbones.timing import timed
from ..params import Params
from ..provenance import hardware
from .bootstrap import interval
from .methods import Method
from .result import Metric

WARM_UP, REPEATS = 2, 10  # calls that are not counted, and calls that are


def time_metrics(params: Params, method: Method, steps: int) -> list[Metric]:
    """At each of `evaluation.latency_batch_sizes`: seconds of a batch, images a second, peak memory.

    Two calls warm up; the device's queue is empty before and after each timed one.
    """
    return [metric for size in params.evaluation.latency_batch_sizes
            for metric in timed_batch(params, method, steps, size)]  # fmt: skip


def timed_batch(params: Params, method: Method, steps: int, size: int) -> list[Metric]:
    """latency (median, its interval, 10 % to 90 % of the calls), throughput and peak_memory at one batch size."""
    sampler, device = method.sampler(params, steps), method.pipeline.device
    prompts = ["a photograph" if hasattr(method.pipeline, "tokenizer") else 0] * size
    reset_peak(device)
    heights = [sampler.draw(prompts, range(size)).shape[1] for _ in range(WARM_UP)]
    seconds = np.array([timed(lambda: sampler.draw(prompts, range(size)), device) for _ in range(REPEATS)])
    low, median, high = np.quantile(seconds, [0.1, 0.5, 0.9]).tolist()
    random = np.random.default_rng(params.evaluation.seed)
    medians = np.median(seconds[random.integers(REPEATS, size=(params.evaluation.bootstrap, REPEATS))], axis=1)
    common = method.conditions(params, steps) | {
        "resolution": heights[0], "batch_size": size, "device": device_name(device),
        "dtype": str(method.pipeline.dtype).removeprefix("torch."),
    }  # fmt: skip
    return [
        Metric("latency", value=median, n=REPEATS, unit="s/batch", interval=interval(medians), spread=(low, high),
               **common),
        Metric("throughput", value=size / median, n=REPEATS, unit="images/s", interval=interval(size / medians),
               **common),
        Metric("peak_memory", value=peak(device), unit=f"bytes, {memory_kind(device)}", **common),
    ]  # fmt: skip


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int:
    """Bytes; on a CPU those of the whole process since its start, which only ever rise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_kind(device: torch.device) -> str:
    return "allocated by torch" if device.type == "cuda" else "resident in the process, since its start"


def device_name(device: torch.device) -> str:
    """The GPU's name, or what the CPU is called with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{hardware()['cpu']}, {torch.get_num_threads()} threads"
