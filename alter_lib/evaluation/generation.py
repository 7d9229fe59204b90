"""Images for the metrics, by a stock diffusers pipeline call: seeded one by one, written batch by batch, resumable.

Image i depends on (seed, i) and its prompt alone: the same at any batch size, up to the rounding of batched kernels.
A user gets it with `pipe(prompts[i], generator=torch.Generator().manual_seed(image_seed(seed, i)))`.
"""

import gc
import hashlib
import inspect
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from accelerate import PartialState
from diffusers import DiffusionPipeline, DiTPipeline, SchedulerMixin
from torch import nn
from tqdm.auto import tqdm

from ..common.hashing import add_weights
from ..common.out_of_memory import is_out_of_memory, reason
from ..params import ParamsError, Sampling
from ..sampling import LearnedVarianceDiTPipeline, learned_variance_scheduler
from .image_store import ImageStore


def image_seed(seed: int, i: int) -> int:
    """Seed of the generator of image i; those of two runs meet only beyond a million images.

    Below 2^32: torch's CPU generator silently drops the higher bits of a seed.
    """
    return (seed * 1_000_003 + i) % 2**32


def make_scheduler(pipeline: DiffusionPipeline, name: str | None) -> SchedulerMixin:
    """The scheduler class `name` of diffusers with the settings of the pipeline's own; None: the pipeline's own class.

    Raises ParamsError for a name that diffusers doesn't have.
    """
    own = pipeline.scheduler
    if name is not None and not hasattr(diffusers, name):
        raise ParamsError([f"sampling.scheduler: {name!r} is not a scheduler of diffusers {diffusers.__version__}"])
    return (getattr(diffusers, name) if name else type(own)).from_config(own.config)


def sampler_scheduler(pipeline: DiffusionPipeline, sampling: Sampling) -> SchedulerMixin:
    """The scheduler that `sampling` draws with. Raises ParamsError for a procedure that the pipeline can't follow."""
    if sampling.procedure == "pipeline":
        return make_scheduler(pipeline, sampling.scheduler)
    if not isinstance(pipeline, DiTPipeline):
        name = type(pipeline).__name__
        raise ParamsError([f"sampling.procedure: learned_variance needs a DiTPipeline, the backbone is a {name}"])
    return learned_variance_scheduler(pipeline.scheduler.config)


def sampler_name(pipeline: DiffusionPipeline, sampling: Sampling) -> str:
    """The scheduler's class, and the DiT repository's procedure where that is followed instead of the pipeline's."""
    name = type(sampler_scheduler(pipeline, sampling)).__name__
    return name if sampling.procedure == "pipeline" else f"{name}, learned variance, guidance on three channels"


def scheduler_settings(scheduler: SchedulerMixin) -> dict[str, Any]:
    """What a scheduler was made with, less the entries of its file that are for other classes."""
    known = inspect.signature(type(scheduler).__init__).parameters
    return {name: value for name, value in sorted(scheduler.config.items()) if name in known}


def weights_hash(pipeline: DiffusionPipeline) -> str:
    """sha256 of all weights, by component and name: equal for equal values and dtypes, wherever they came from."""
    digest = hashlib.sha256()
    for component, module in sorted(pipeline.components.items()):
        if isinstance(module, nn.Module):
            add_weights(digest, module, f"{component}.")
    return digest.hexdigest()


@dataclass(frozen=True)
class Sampler:
    """A pipeline and all that decides what it draws. identity: further facts that images depend on, e.g. the plan."""

    pipeline: DiffusionPipeline
    sampling: Sampling
    steps: int
    identity: Any = None

    def key(self, prompts: Sequence[str | int]) -> str:
        """Hash of whatever the images depend on; images under another key are never mixed in."""
        scheduler = sampler_scheduler(self.pipeline, self.sampling)
        config = scheduler_settings(scheduler)
        call = {"steps": self.steps, "guidance_scale": self.sampling.guidance_scale, "seed": self.sampling.seed}
        facts = [weights_hash(self.pipeline), type(scheduler).__name__, config, call, self.identity, list(prompts)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def draw(self, prompts: Sequence[str | int], indices: Sequence[int]) -> np.ndarray:
        """uint8 [n, H, W, 3]: image i of prompts[i] (a caption or a class label) for every i in `indices`, as one
        batch."""
        pipeline = self.pipeline
        if self.sampling.procedure == "learned_variance":
            pipeline = LearnedVarianceDiTPipeline.of(pipeline)
        before, pipeline.scheduler = pipeline.scheduler, sampler_scheduler(self.pipeline, self.sampling)
        try:
            images = pipeline(
                [prompts[i] for i in indices],
                num_inference_steps=self.steps,
                guidance_scale=self.sampling.guidance_scale,
                generator=[torch.Generator().manual_seed(image_seed(self.sampling.seed, i)) for i in indices],
                output_type="pt",
            ).images
        finally:
            pipeline.scheduler = before
        return (images.float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def draw_missing(
    sampler: Sampler,
    prompts: Sequence[str | int],
    store: ImageStore,
    name: str,
    indices: Sequence[int] | None = None,
    processes: PartialState | None = None,
) -> None:
    """Draw what `store` lacks of the images of `prompts` at `indices` (default: all), `sampling.batch_size` at a time.

    The batches are those of one process, dealt out in turn to `processes` (accelerate's): which images share a batch,
    and with it every rounding of batched kernels, does not depend on how many there are, nor on an interruption.
    """
    indices = range(len(prompts)) if indices is None else indices
    present, size = store.present(), sampler.sampling.batch_size
    missing = [i for i in indices if i not in present]
    batches, desc = [missing[first : first + size] for first in range(0, len(missing), size)], name
    if processes:
        processes.wait_for_everyone()  # nobody writes before everybody has looked
        batches = batches[processes.process_index :: processes.num_processes]
        desc = f"{name}, process {processes.process_index + 1} of {processes.num_processes}"
    total = sum(map(len, batches))
    done = len(indices) - len(missing)
    with tqdm(total=done + total, initial=done, desc=desc, unit="image") as bar:
        for batch in batches:
            store.write(batch, drawn(sampler, prompts, batch))
            bar.update(len(batch))
    if processes:
        processes.wait_for_everyone()


def drawn(sampler: Sampler, prompts: Sequence[str | int], batch: Sequence[int]) -> np.ndarray:
    """`sampler.draw`. Raises ParamsError, with a number of images that fits, where memory runs out."""
    try:
        return sampler.draw(prompts, batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = reason(error)
    # out here: the traceback would keep the call's tensors alive
    fits = next((n for n in halves(len(batch)) if can_draw(sampler, prompts, batch[:n])), None)
    advice = f"{fits} do: set sampling.batch_size: {fits}" if fits else "nor does one"
    where = sampler.pipeline.device
    raise ParamsError([f"sampling.batch_size: {len(batch)} images at a time don't fit into {where} ({said}); {advice}"])


def halves(size: int) -> list[int]:
    """Half of `size`, a quarter, ..., 1."""
    return [size >> k for k in range(1, size.bit_length())]


def can_draw(sampler: Sampler, prompts: Sequence[str | int], batch: Sequence[int]) -> bool:
    """Whether there is memory for `batch`."""
    gc.collect()
    if sampler.pipeline.device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        sampler.draw(prompts, batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def generate(
    sampler: Sampler, prompts: Sequence[str | int], folder: Path, name: str, indices: Sequence[int] | None = None
) -> np.ndarray:
    """Images of `prompts` at `indices` (default: all), uint8 [n, H, W, 3].

    Shards of `sampling.batch_size` images are kept in `folder`/`name`-<key>; those that are there are not drawn again,
    those of the same name with another key (other weights, plan, seed, ...) are removed.
    """
    indices = list(range(len(prompts)) if indices is None else indices)
    home = folder / f"{name}-{sampler.key(prompts)}"
    for stale in folder.glob(f"{name}-*"):
        if stale != home:
            shutil.rmtree(stale)
    draw_missing(sampler, prompts, ImageStore(home), name, indices)
    return ImageStore(home).read(indices)
