"""A training step that does not fit into memory: how many samples at a time would, and how to set it."""

import gc
from typing import TYPE_CHECKING

import torch

from ..common.out_of_memory import is_out_of_memory, reason
from ..params import ParamsError, load_params

if TYPE_CHECKING:
    from .trainer import Trainer


def step(trainer: "Trainer") -> dict[str, float | str]:
    """`trainer.step()`. Raises ParamsError, with the largest number of samples that fits, where memory runs out."""
    try:
        return trainer.step()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = reason(error)
    raise ParamsError([advice(trainer, said)])  # out here: the traceback would keep the step's tensors alive


def advice(trainer: "Trainer", said: str) -> str:
    """One line. The step is tried in ever smaller parts, in one process: several would wait for each other."""
    training, processes = trainer.params.training, trainer.accelerator.num_processes
    share, parts = training.batch_size // processes, training.gradient_accumulation_steps
    start = (
        f"training.batch_size: {share // parts} samples at a time don't fit into the memory of {trainer.device} "
        f"({said})"
    )
    finer = [n for n in range(parts + 1, share + 1) if share % n == 0]
    found = next((n for n in finer if fits(trainer, n)), None) if processes == 1 else next(iter(finer), None)
    if found is None:
        return f"{start}, nor does one; training.gradient_checkpointing: true or mixed_precision: bf16 take less"
    tried = f"{share // found} do" if processes == 1 else f"try {share // found}"
    return (
        f"{start}; {tried}: training.gradient_accumulation_steps: {found} gives the same gradients in parts, "
        f"training.batch_size: {share // found * processes * parts} a smaller batch"
    )


def fits(trainer: "Trainer", parts: int) -> bool:
    """Whether a whole step passes in that many micro-batches. It changes the weights: the run has ended."""
    for optimizer in trainer.optimizers.values():
        optimizer.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()
    trainer.params = load_params(trainer.params.dump(), {"training.gradient_accumulation_steps": parts})
    try:
        trainer.step()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
