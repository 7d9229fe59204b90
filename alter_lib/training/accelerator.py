"""accelerate's Accelerator for a run, and what it can't do said before anything is loaded."""

import importlib.util

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DistributedType, LoggerType, ProjectConfiguration

from ..params import Params, ParamsError, Training

SHARDED = (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM)


def on_cpu(params: Params) -> bool:
    """Whether accelerate must be told that it runs on CPUs: else each process takes itself for the only one."""
    return params.backbone.device == "cpu" or not torch.accelerator.is_available()


def process_state(params: Params) -> PartialState:
    """The processes that share work without training."""
    return PartialState(cpu=on_cpu(params))


def make_accelerator(params: Params) -> Accelerator:
    """The processes, device, precision and trackers of `params`, however this process was launched.

    Raises ParamsError for a number of processes that does not divide the batch, for fp16 without a GPU, for a tracker
    that is not installed and for a launch that shards parameters.
    """
    training = params.training
    AcceleratorState._reset_state()  # a kernel may train a second run, with another precision
    accelerator = Accelerator(
        mixed_precision=training.mixed_precision,
        cpu=on_cpu(params),
        log_with=trackers(training) or None,  # accelerate warns of an empty list
        project_config=ProjectConfiguration(logging_dir=str(params.run_folder / "logs")),
    )
    bad, shares = [], accelerator.num_processes * training.gradient_accumulation_steps
    if training.batch_size % shares:
        bad.append(
            f"training.batch_size: {training.batch_size} is not a multiple of the {accelerator.num_processes} processes"
            f" x gradient_accumulation_steps ({training.gradient_accumulation_steps})"
        )
    if training.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        bad.append("training.mixed_precision: fp16 and its loss scale need a GPU; on a CPU take bf16 or no")
    if accelerator.distributed_type in SHARDED:
        bad.append(f"accelerate: {accelerator.distributed_type.value} is not supported; launch with --multi_gpu")
    if bad:
        raise ParamsError(bad)
    return accelerator


def trackers(training: Training) -> list[str]:
    """training.trackers as accelerate takes them."""
    if training.trackers == "auto":
        return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    known = set(LOGGER_TYPE_TO_CLASS)  # accelerate's, and those of register_tracker_class
    missing = known.intersection(LoggerType.list()).difference(map(str, get_available_trackers()))
    bad = [f"training.trackers: {name} is not installed" for name in training.trackers if name in missing]
    bad += [
        f"training.trackers: {name!r} is not one of {' | '.join(sorted(known))}"
        for name in training.trackers
        if name not in known
    ]
    if bad:
        raise ParamsError(bad)
    return list(training.trackers)
