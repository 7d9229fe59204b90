"""L_U: what a pruned denoiser has to reproduce (paper §3.3), from one noised batch and one teacher pass."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields

import torch
from diffusers import DDPMScheduler
from torch import nn

from .. import losses
from ..backbones import feature_points
from ..data.latents import Batch
from ..params import Loss


class FeatureTap:
    """The outputs of a denoiser's feature points in its last forward pass."""

    def __init__(self, denoiser: nn.Module, points: str | int) -> None:
        self.features: list[torch.Tensor] = []
        for block in feature_points(denoiser, points):
            block.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: tuple, output: object) -> None:
        self.features.append(output if torch.is_tensor(output) else output[0])  # down blocks: (hidden, residuals)

    def take(self) -> list[torch.Tensor]:
        features, self.features = self.features, []
        return features


@dataclass(frozen=True)
class Noised:
    """x_0, x_t and the training target [B, C, h, w], the condition, timesteps on the CPU and on the device."""

    x_0: torch.Tensor
    x_t: torch.Tensor
    target: torch.Tensor
    condition: torch.Tensor
    timesteps: torch.Tensor
    device_timesteps: torch.Tensor

    def split(self, count: int) -> list["Noised"]:
        """`count` micro-batches of equal size, in order."""
        parts = zip(*(getattr(self, field.name).chunk(count) for field in fields(self)), strict=True)
        return [Noised(*part) for part in parts]


class Objective:
    """Runs teacher and student and compares them. `theta_T` is the frozen pretrained backbone."""

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        scheduler_config: dict,
        weights: Loss,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.autocast = autocast
        self.teacher, self.student, self.weights = teacher, student, weights
        self.dtypes = {network: network.dtype for network in (teacher, student)}
        self.scheduler = DDPMScheduler.from_config(scheduler_config)  # for the forward process only
        self.taps = {network: FeatureTap(network, weights.feature_points) for network in (teacher, student)}

    def noise(self, batch: Batch) -> Noised:
        """x_t and the checkpoint's training target: epsilon, v or x_0 by the scheduler's prediction_type."""
        device, dtype = self.student.device, self.dtypes[self.student]
        latents, noise = batch.latents.to(device, dtype), batch.noise.to(device, dtype)
        timesteps = batch.timesteps.to(device)
        x_t = self.scheduler.add_noise(latents, noise, timesteps)
        kind = self.scheduler.config.prediction_type
        target = {"epsilon": noise, "sample": latents}.get(kind)
        target = self.scheduler.get_velocity(latents, noise, timesteps) if target is None else target
        return Noised(latents, x_t, target, batch.condition.to(device), batch.timesteps, timesteps)

    def run(self, network: nn.Module, noised: Noised, context: AbstractContextManager | None = None) -> tuple:
        """Prediction [B, C, h, w] and block features of one network; 2 C channels where the variance is learned.

        Autocast is for float32 weights: a teacher that is stored in half precision computes in it.
        """
        dtype, condition = self.dtypes[network], noised.condition
        condition = condition.to(dtype) if condition.is_floating_point() else condition  # labels stay integers
        half = torch.finfo(dtype).bits < 32
        with context or nullcontext(), nullcontext() if half else self.autocast():
            prediction = network(noised.x_t.to(dtype), noised.device_timesteps, condition, return_dict=False)[0]
        return prediction, self.taps[network].take()

    def teach(self, noised: Noised) -> tuple:
        """eps_T and f_T^k: one pass without a graph serves both phases of a step."""
        with torch.no_grad():
            return self.run(self.teacher, noised)

    def performance(self, noised: Noised, taught: tuple, context: AbstractContextManager) -> dict[str, torch.Tensor]:
        """L_U = lambda_denoise L_denoise + lambda_outKD L_outKD + lambda_featKD L_featKD, and its terms."""
        (out_t, f_t), (out_s, f_s) = taught, self.run(self.student, noised, context)
        w, reduction = self.weights, self.weights.reduction
        denoise = self.denoising(out_s, noised)
        distilled = slice(None if w.distill_variance else noised.x_t.shape[1])
        output_kd = losses.squared_error(out_t[:, distilled], out_s[:, distilled], reduction)
        feature_kd = losses.feature_distillation(f_t, f_s, reduction)
        total = w.denoise * denoise + w.output_kd * output_kd + w.feature_kd * feature_kd
        return {"L_U": total, "L_denoise": denoise, "L_outKD": output_kd, "L_featKD": feature_kd}

    def denoising(self, output: torch.Tensor, noised: Noised) -> torch.Tensor:
        """L_denoise, the checkpoint's own training loss: with a learned variance its variational term too, as DiT has
        it, or fine-tuning would let the variance go."""
        prediction, variance = output[:, : noised.x_t.shape[1]], output[:, noised.x_t.shape[1] :]
        denoise = losses.squared_error(prediction, noised.target, self.weights.reduction)
        if variance.shape[1] == 0:
            return denoise
        bound = losses.variational_bound(
            losses.wide(prediction.detach()),
            losses.wide(variance),
            noised.x_0,
            noised.x_t,
            noised.device_timesteps,
            self.scheduler.alphas_cumprod,
        )
        return denoise + bound
