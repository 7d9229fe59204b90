"""AdamW of one network with its schedule: gradients averaged over the processes, clipped, freed of fp16's loss scale.

The gradients are reduced here and not by DistributedDataParallel: layers that a batch skips differ from process to
process, which DDP takes for an error, and two networks take turns at one forward pass.
"""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..params import ParamsError, Training

BUCKET = 2**25  # gradients that are reduced at a time: 128 MB of float32, not a copy of the whole network's


def adamw(parameters: list[torch.nn.Parameter], kind: str, **options: float) -> torch.optim.Optimizer:
    """torch's AdamW, or bitsandbytes' with 8-bit moments. Raises ParamsError where that is not installed."""
    if kind == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ParamsError(
            ["training.optimizer: adamw_8bit needs bitsandbytes, which is not installed (pip install -e .[8bit])"]
        ) from None
    return AdamW8bit(parameters, **options)


def buckets(tensors: list[torch.Tensor], size: int) -> Iterator[list[torch.Tensor]]:
    """`tensors` in order, in lists of at most `size` elements, or of one larger tensor."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and sum(other.numel() for other in bucket) + tensor.numel() > size:
            yield bucket
            bucket = []
        bucket.append(tensor)
    yield bucket


class NetworkOptimizer:
    """Steps the parameters of one network together, and hands its state to checkpoints."""

    def __init__(
        self,
        accelerator: Accelerator,
        parameters: list[torch.nn.Parameter],
        learning_rate: float,
        steps: int,
        training: Training,
        kind: str = "adamw",
    ) -> None:
        """steps: of this network, the length of a cosine schedule. kind: `adamw` or `adamw_8bit`."""
        self.accelerator, self.parameters, self.max_grad_norm = accelerator, parameters, training.max_grad_norm
        self.scaler: torch.amp.GradScaler | None = accelerator.scaler  # of fp16, one for both networks
        self.optimizer = adamw(parameters, kind, lr=learning_rate, weight_decay=training.weight_decay)
        self.schedule = get_scheduler(
            "constant_with_warmup" if training.schedule == "constant" else training.schedule,
            self.optimizer,
            num_warmup_steps=min(training.warmup_steps, steps),
            num_training_steps=steps,
        )

    @property
    def learning_rate(self) -> float:
        return self.schedule.get_last_lr()[0]

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss, of the whole share of a process or of one of its micro-batches."""
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def step(self) -> float:
        """One AdamW step; returns the norm of the gradients before clipping. Where that is inf or NaN nothing changes,
        but for the loss scale of fp16."""
        self.average_gradients()
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        norm = get_total_norm([parameter.grad for parameter in self.parameters])
        is_finite = bool(norm.isfinite())
        if self.max_grad_norm:
            clip_grads_with_norm_(self.parameters, self.max_grad_norm, norm)
        if self.scaler:
            self.scaler.step(self.optimizer)  # looks for itself
            self.scaler.update()
        elif is_finite:
            self.optimizer.step()
        if is_finite:
            self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.item()

    def average_gradients(self) -> None:
        """The mean over the processes. A parameter that no sample reached has gradient 0, on one process as on many:
        AdamW does not treat it as None does."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.accelerator.num_processes == 1:
            return
        for gradients in buckets([parameter.grad for parameter in self.parameters], BUCKET):
            flat = self.accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "mean")
            parts = flat.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Moments and step counts as `index.name` tensors; none of a parameter that was never stepped."""
        return {
            f"{index}.{name}": torch.as_tensor(value)
            for index, parameter in enumerate(self.parameters)
            for name, value in self.optimizer.state.get(parameter, {}).items()
        }

    def restore(self, tensors: dict[str, torch.Tensor], schedule: dict[str, Any]) -> None:
        """Go on from `tensors()` and the schedule's state dict."""
        state: dict[int, dict[str, torch.Tensor | int]] = {}
        for key, value in tensors.items():
            index, name = key.split(".")
            is_count = value.dtype == torch.int64  # bitsandbytes counts steps in an int, torch in a float tensor
            state.setdefault(int(index), {})[name] = value.item() if is_count else value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.schedule.load_state_dict(schedule)
        for group, rate in zip(self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = rate
