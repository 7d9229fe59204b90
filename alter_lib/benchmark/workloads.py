"""The sizes at which methods are timed: the paper's models with random weights on a GPU, the embedded ones on a CPU."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ..backbones import Backbone, load_backbone, wrap
from ..params import ROOT


@dataclass(frozen=True)
class Workload:
    """resolution: latent (h, w). batch_sizes: images; guided doubles the denoiser's batch. ratio: of the random plan.
    steps: of the pipeline's own sampler; the first is the unpruned reference. compiled: batch sizes that are also
    compiled, since each graph of a full-size UNet takes about a minute."""

    name: str
    backbone: str
    resolution: tuple[int, int]
    batch_sizes: tuple[int, ...]
    device: str
    dtype: str
    weights: str = "random"
    guided: bool = True
    ratio: float = 0.65
    steps: tuple[int, ...] = (50, 20, 15)
    compiled: tuple[int, ...] = (1,)

    def missing(self) -> str | None:
        """Why it can't be measured here, or None."""
        if self.device == "cuda" and not torch.cuda.is_available():
            return "not measured: no CUDA device"
        if self.backbone.startswith("assets/") and not (ROOT / self.backbone / "model_index.json").is_file():
            return f"not measured: {self.backbone} is not there"
        return None

    def load(self) -> Backbone:
        backbone = load_backbone(self.backbone, self.weights, self.dtype, self.device)
        backbone.denoiser.eval().requires_grad_(False)
        return wrap(backbone.pipeline, resolution=self.resolution)


WORKLOADS = {
    each.name: each
    for each in (
        Workload("sd21_768", "sd21", (96, 96), (1, 4, 16), "cuda", "bfloat16"),
        Workload("sd21_512", "sd21-base", (64, 64), (1, 4, 16), "cuda", "bfloat16"),
        Workload("dit_xl2_256", "dit_xl2", (32, 32), (1, 4, 16), "cuda", "bfloat16", ratio=0.5, steps=(250,)),
        Workload("tiny_sd", "assets/tiny_sd", (8, 8), (64,), "cpu", "float32", "pretrained", guided=False,
                 compiled=(64,)),
        Workload("tiny_dit", "assets/tiny_dit", (8, 8), (64,), "cpu", "float32", "pretrained", guided=False, ratio=0.5,
                 steps=(250, 20), compiled=(64,)),
    )
}  # fmt: skip


def cases(
    names: list[str] | None = None,
    batch_sizes: list[int] | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Iterator[tuple[Workload, int]]:
    """(workload, batch size) of everything asked for; None: all, and the workload's own."""
    for name in WORKLOADS if names is None else names:
        workload = WORKLOADS[name]
        for size in batch_sizes or workload.batch_sizes:
            yield replace(workload, device=device or workload.device, dtype=dtype or workload.dtype), size
