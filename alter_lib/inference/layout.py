"""Two layouts of a denoiser that leave its function alone: channels-last convolutions and fused attention projections.

Both come off again, with every weight where it was.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from diffusers.models.attention_processor import Attention, AttentionProcessor, AttnProcessor2_0, FusedAttnProcessor2_0
from torch import nn

from ..plan.file import PlanError

FUSED = ("to_qkv", "to_kv")  # what Attention.fuse_projections adds: one product in place of three, or of two


@dataclass
class Layout:
    """What was changed on a denoiser. processors: the attention modules that were fused, each with what it had."""

    denoiser: nn.Module
    channels_last: bool = False
    processors: list[tuple[Attention, AttentionProcessor]] = field(default_factory=list)

    @classmethod
    def applied(cls, denoiser: nn.Module, channels_last: bool, fuse_projections: bool) -> "Layout":
        if channels_last:
            denoiser.to(memory_format=torch.channels_last)
        layout = cls(denoiser, channels_last)
        for module in denoiser.modules():
            if fuse_projections and isinstance(module, Attention) and type(module.processor) is AttnProcessor2_0:
                layout.processors.append((module, module.processor))
                module.fuse_projections()
                module.set_processor(FusedAttnProcessor2_0())
        return layout

    def remove(self) -> None:
        if self.channels_last:
            self.denoiser.to(memory_format=torch.contiguous_format)
        for attention, processor in self.processors:
            attention.set_processor(processor)
            attention.fused_projections = False
            for name in FUSED:
                attention._modules.pop(name, None)

    @staticmethod
    def check(denoiser: nn.Module, fuse_projections: bool) -> None:
        """Raises PlanError for projections under an adapter, which a fused copy of the weights would leave out."""
        if fuse_projections and getattr(denoiser, "peft_config", None):
            raise PlanError("fuse_projections: an adapter (LoRA) is loaded, fuse it into the weights first")

    @contextmanager
    def without_fused_weights(self) -> Iterator[None]:
        """While saving: fused copies are no part of the architecture."""
        hidden = [(attention, name, attention._modules.pop(name)) for attention, _ in self.processors
                  for name in FUSED if name in attention._modules]  # fmt: skip
        try:
            yield
        finally:
            for attention, name, module in hidden:
                attention._modules[name] = module
