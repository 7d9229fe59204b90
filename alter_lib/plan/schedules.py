"""Which timestep 0..T-1 a scheduler's value stands for, and which ones a sampler visits.

Schedulers pass integers, fractions (Euler and its kin), sigmas in another unit, or t = T (`steps_offset`). A plan's
routing is a table over 0..T-1, so each value is mapped by its scheduler's own rule, or refused with a line.
"""

import math

import numpy as np
import torch
from diffusers import SchedulerMixin

from .file import PlanError


def timestep_index(t: float, num_train_timesteps: int, scheduler: SchedulerMixin | None = None) -> int:
    """The timestep 0..T-1 that a scheduler's value `t` stands for: what the denoiser was trained at.

    Integers stand for themselves; fractions are rounded; t = T (the overflow of `steps_offset` at T steps, or the start
    of flow matching) is T-1; the log-sigmas of a continuous Euler scheduler go back through its own sigma-to-timestep
    rule. scheduler None: t counts training timesteps. Raises PlanError for anything else, such as the units of EDM, SCM
    or consistency-model schedulers.
    """
    if scheduler is not None:
        t = in_train_timesteps(t, scheduler, num_train_timesteps)
    index = math.floor(t + 0.5)
    if not 0 <= index <= num_train_timesteps:
        raise PlanError(f"timestep: {t:g} is outside 0..{num_train_timesteps - 1}")
    return min(index, num_train_timesteps - 1)


def in_train_timesteps(t: float, scheduler: SchedulerMixin, num_train_timesteps: int) -> float:
    """`t` in units of training timesteps, possibly fractional. Raises PlanError for a scheduler without such a unit."""
    name = type(scheduler).__name__
    total = scheduler.config.get("num_train_timesteps")
    is_flow = "FlowMatch" in name
    if not is_flow and not hasattr(scheduler, "alphas_cumprod"):
        raise PlanError(f"scheduler: {name} does not count timesteps 0..T-1, no expert can be chosen for {t:g}")
    if total != num_train_timesteps:
        raise PlanError(f"scheduler: {name} has num_train_timesteps {total}, the plan {num_train_timesteps}")
    if is_flow and 0 < t < 1 and t not in scheduler.timesteps.tolist():
        raise PlanError(f"timestep: {t:g} under {name} looks like t / {total}; pass t in 0..{total}")
    if counts_log_sigma(scheduler):
        betas = scheduler.alphas_cumprod.cpu().numpy()
        return float(scheduler._sigma_to_t(np.exp(4 * np.array([t])), np.log(((1 - betas) / betas) ** 0.5))[0])
    return t


def counts_log_sigma(scheduler: SchedulerMixin) -> bool:
    """True for Euler schedulers whose timesteps are 0.25 log sigma (`timestep_type="continuous"` with v-prediction)."""
    config = scheduler.config
    return config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction"


def visited_timesteps(scheduler: SchedulerMixin, steps: int, strength: float = 1.0) -> list[int]:
    """The timesteps 0..T-1 of every call of the denoiser when `scheduler` samples in `steps` steps, in order.

    One entry a call, repeats included: PNDM calls 21 times for 20 steps, Heun 39 times. strength: of image-to-image,
    which leaves the first (1 - strength) of the steps out. `scheduler` itself is not touched.
    """
    copy = type(scheduler).from_config(scheduler.config)
    copy.set_timesteps(steps)
    start = (steps - min(int(steps * strength), steps)) * copy.order
    total = copy.config.num_train_timesteps
    return [timestep_index(t, total, copy) for t in copy.timesteps[start:].tolist()]


class HostTimesteps:
    """Reads the values of timestep tensors without a device synchronisation a step.

    A pipeline hands the denoiser one element after the other of a schedule that lies on the device: views of one
    storage. That storage is copied to the host once; later elements are looked up by their offset in it. Values on the
    CPU are read as they are.
    """

    def __init__(self) -> None:
        self._schedule: torch.Tensor | None = None  # keeps the storage alive, so that its address is not used again
        self._key: tuple[int, int, torch.dtype] | None = None
        self._values: list[float] = []

    def read(self, timestep: torch.Tensor | float) -> list[float]:
        """The values of `timestep`: one for a scalar, an expanded scalar or a number, else one a sample."""
        if not torch.is_tensor(timestep):
            return [timestep]
        if timestep.is_cuda and not timestep.is_inference():  # inference tensors do not show that they were written to
            return self.look_up(timestep)
        return timestep.reshape(-1).tolist()

    def look_up(self, timestep: torch.Tensor) -> list[float]:
        """`read` by way of the host copy of the whole storage."""
        storage = timestep.untyped_storage()
        key = (storage.data_ptr(), timestep._version, timestep.dtype)
        if key != self._key:
            self._schedule = torch.empty(0, dtype=timestep.dtype, device=timestep.device).set_(storage)
            self._key, self._values = key, self._schedule.tolist()
        if all(stride == 0 or size == 1 for size, stride in zip(timestep.shape, timestep.stride(), strict=True)):
            return [self._values[timestep.storage_offset()]]
        if timestep.ndim == 1:
            return self._values[timestep.storage_offset() :: timestep.stride(0)][: len(timestep)]
        return timestep.reshape(-1).tolist()
