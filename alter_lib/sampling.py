"""The DiT repository's sampling, which the paper's Table 4 uses: ancestral DDPM steps with the learned variance.

`diffusers.DiTPipeline` guides all latent channels and drops the learned variance; the repository guides the first three
and samples with it. Guidance 1.5 on three channels is about 1.375 on four.

    pipe = LearnedVarianceDiTPipeline.of(load_pipeline("runs/tiny_dit/alter"))
    images = pipe([0, 9], num_inference_steps=250, guidance_scale=1.5).images
"""

from typing import Any, Self

import torch
from diffusers import DDPMScheduler, DiTPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

GUIDED_CHANNELS = 3  # of four latent channels, as the repository has it


def learned_variance_scheduler(config: dict) -> DDPMScheduler:
    """Ancestral sampling with the betas of `config`; N steps visit linspace(0, T - 1, N), as the repository's
    `space_timesteps` does."""
    return DDPMScheduler.from_config(
        config, variance_type="learned_range", timestep_spacing="linspace", clip_sample=False
    )


class LearnedVarianceDiTPipeline(DiTPipeline):
    """DiTPipeline with the sampling procedure of the DiT repository: same components, same plan."""

    @classmethod
    def of(cls, pipe: DiTPipeline) -> Self:
        """This procedure over the components of `pipe`, which are shared and not copied."""
        same = cls(pipe.transformer, pipe.vae, learned_variance_scheduler(pipe.scheduler.config))
        same.labels = pipe.labels
        same.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
        return same

    @torch.no_grad()
    def __call__(
        self,
        class_labels: list[int],
        guidance_scale: float = 1.5,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int = 250,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Images of `class_labels` [n]; arguments as in DiTPipeline. guidance_scale <= 1: one call a step, unguided."""
        transformer, device = self.transformer, self._execution_device
        config, guided = transformer.config, guidance_scale > 1
        shape = (len(class_labels), config.in_channels, config.sample_size, config.sample_size)
        x = randn_tensor(shape, generator=generator, device=device, dtype=transformer.dtype)
        labels = torch.tensor(class_labels, device=device)
        if guided:
            labels = torch.cat([labels, torch.full_like(labels, config.num_embeds_ada_norm)])
        self.scheduler.set_timesteps(num_inference_steps)
        # as custom timesteps a step goes to the next visited one; DDPMScheduler would otherwise go down by T // N
        self.scheduler.set_timesteps(timesteps=self.scheduler.timesteps.tolist(), device=device)
        for t in self.progress_bar(self.scheduler.timesteps):
            output = transformer(torch.cat([x, x]) if guided else x, t.expand(len(labels)), labels).sample
            x = self.scheduler.step(guide(output, guidance_scale) if guided else output, t, x, generator).prev_sample
        images = self.vae.decode(x / self.vae.config.scaling_factor).sample
        images = self.finish(images, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def finish(self, images: torch.Tensor, output_type: str) -> Any:
        """Values in [0, 1] as "pt" [n, 3, H, W], "np" [n, H, W, 3] or "pil"."""
        images = (images / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return images
        arrays = images.cpu().permute(0, 2, 3, 1).float().numpy()
        return self.numpy_to_pil(arrays) if output_type == "pil" else arrays


def guide(output: torch.Tensor, scale: float) -> torch.Tensor:
    """[2n, 2C, h, w], first half with labels, to [n, 2C, h, w]: guidance on the first three channels of epsilon; the
    rest, the variance among it, is that of the labelled half."""
    labelled, unlabelled = output.chunk(2)
    eps, rest = labelled[:, :GUIDED_CHANNELS], labelled[:, GUIDED_CHANNELS:]
    null = unlabelled[:, :GUIDED_CHANNELS]
    return torch.cat([null + scale * (eps - null), rest], 1)
