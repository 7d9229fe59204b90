"""L_U: what a pruned denoiser has to reproduce (paper §3.3), from one noised batch and one teacher pass."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import nn

from . import losses
from .backbones import ADAPTERS
from .data.latents import Batch
from .params import Loss


class FeatureTap:
    """The outputs of a denoiser's feature blocks (down, middle, up) in its last forward pass."""

    def __init__(self, denoiser: nn.Module) -> None:
        self.features: list[torch.Tensor] = []
        for block in ADAPTERS[type(denoiser).__name__].feature_blocks(denoiser):
            block.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: tuple, output: object) -> None:
        self.features.append(output if torch.is_tensor(output) else output[0])  # down blocks: (hidden, residuals)

    def take(self) -> list[torch.Tensor]:
        features, self.features = self.features, []
        return features


@dataclass(frozen=True)
class Noised:
    """x_t and the training target [B, C, h, w], the conditions, timesteps on the CPU and on the device."""

    x_t: torch.Tensor
    target: torch.Tensor
    text: torch.Tensor
    timesteps: torch.Tensor
    device_timesteps: torch.Tensor


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
        self.scheduler = DDPMScheduler.from_config(scheduler_config)  # for the forward process only
        self.taps = {network: FeatureTap(network) for network in (teacher, student)}

    def noise(self, batch: Batch) -> Noised:
        """x_t and the checkpoint's training target: epsilon, v or x_0 by the scheduler's prediction_type."""
        device = self.student.device
        latents, noise = batch.latents.to(device), batch.noise.to(device)
        timesteps = batch.timesteps.to(device)
        x_t = self.scheduler.add_noise(latents, noise, timesteps)
        kind = self.scheduler.config.prediction_type
        target = {"epsilon": noise, "sample": latents}.get(kind)
        target = self.scheduler.get_velocity(latents, noise, timesteps) if target is None else target
        return Noised(x_t, target, batch.text.to(device), batch.timesteps, timesteps)

    def run(self, network: nn.Module, noised: Noised, context: AbstractContextManager | None = None) -> tuple:
        """Prediction [B, C, h, w] and block features of one network."""
        with context or nullcontext(), self.autocast():
            prediction = network(noised.x_t, noised.device_timesteps, noised.text, return_dict=False)[0]
        return prediction, self.taps[network].take()

    def teach(self, noised: Noised) -> tuple:
        """eps_T and f_T^k: one pass without a graph serves both phases of a step."""
        with torch.no_grad():
            return self.run(self.teacher, noised)

    def performance(self, noised: Noised, taught: tuple, context: AbstractContextManager) -> dict[str, torch.Tensor]:
        """L_U = lambda_denoise L_denoise + lambda_outKD L_outKD + lambda_featKD L_featKD, and its terms."""
        (eps_t, f_t), (eps_s, f_s) = taught, self.run(self.student, noised, context)
        w, reduction = self.weights, self.weights.reduction
        denoise = losses.squared_error(eps_s, noised.target, reduction)
        output_kd = losses.squared_error(eps_t, eps_s, reduction)
        feature_kd = losses.feature_distillation(f_t, f_s, reduction)
        total = w.denoise * denoise + w.output_kd * output_kd + w.feature_kd * feature_kd
        return {"L_U": total, "L_denoise": denoise, "L_outKD": output_kd, "L_featKD": feature_kd}
