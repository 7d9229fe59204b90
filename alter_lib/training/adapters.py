"""LoRA of the backbone (Hu et al. 2021): theta stays as it is, adapters of the attention projections are trained."""

import torch
from peft import LoraConfig, LoraModel
from torch import nn

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # of each attention, self and cross


def add_adapters(denoiser: nn.Module, rank: int) -> LoraModel:
    """Adapters of `rank` inside `denoiser`, in place; they start at zero, and nothing else can be trained.

    Call `denoiser` as before. `merge_and_unload()` of what is returned adds the adapters to the weights and leaves the
    denoiser as one that never had any.
    """
    return LoraModel(denoiser, LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS), "default")


def trainable(module: nn.Module) -> dict[str, torch.Tensor]:
    """The adapters' weights by name: all that a checkpoint has to hold of the student."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
