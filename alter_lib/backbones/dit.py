"""Adapter of DiTTransformer2DModel (DiT-XL/2): whole transformer blocks are the prunable layers (paper §3.1)."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import DiTPipeline, DiTTransformer2DModel
from torch import nn

BLOCK = "block"


def prunable_layers(dit: DiTTransformer2DModel) -> list[tuple[str, str, nn.Module]]:
    """(name, kind, module) of every block: DiT-XL/2 has 28 of equal cost.

    Block 0 is one of them: skipped, it is not called, while the output head goes on reading the embedder inside it.
    """
    return [(f"transformer_blocks.{i}", BLOCK, block) for i, block in enumerate(dit.transformer_blocks)]


def read_from_outside() -> tuple[str, ...]:
    """Paths of the modules inside prunable layers that others read: the embedder of the output head."""
    return ("transformer_blocks.0.norm1.emb",)


def feature_blocks(dit: DiTTransformer2DModel) -> list[nn.Module]:
    """The modules whose outputs [B, tokens, D] can be distilled (L_featKD, paper §3.3)."""
    return list(dit.transformer_blocks)


def example_inputs(dit: DiTTransformer2DModel, resolution: tuple[int, int], _text_tokens: int, device: str) -> dict:
    """Inputs of one batch-1 forward at a latent resolution (h, w)."""
    return {
        "hidden_states": torch.zeros(1, dit.config.in_channels, *resolution, device=device),
        "timestep": torch.zeros(1, device=device, dtype=torch.long),
        "class_labels": torch.zeros(1, device=device, dtype=torch.long),
    }


def timestep_embeddings(dit: DiTTransformer2DModel, timesteps: torch.Tensor, embedded: bool) -> torch.Tensor:
    """e_t [T, D_emb]: the sinusoid (256) or what block 0's embedding MLP makes of it (DiT-XL/2: 1152)."""
    embedder = dit.transformer_blocks[0].norm1.emb
    sinusoid = embedder.time_proj(timesteps).to(dit.dtype)
    return embedder.timestep_embedder(sinusoid) if embedded else sinusoid


def timestep_input(t: torch.Tensor, batch_size: int) -> torch.Tensor:
    """A scalar timestep as DiTPipeline passes it: expanded over the batch."""
    return t.expand(batch_size)


def prepare(dit: DiTTransformer2DModel, pretrained: bool) -> None:
    """One embedder for all blocks, as in the DiT repository, and no label dropout of its own.

    diffusers gives every block a copy of it: 75 M parameters of DiT-XL/2's 749.8 M that would drift apart in
    fine-tuning, and labels that, in training mode, each block would drop by itself. Labels are dropped by the data.
    A checkpoint whose copies differ is left as it is.
    """
    embedders = [block.norm1.emb for block in dit.transformer_blocks]
    if not pretrained or all(equal(embedders[0], embedder) for embedder in embedders[1:]):
        share_embedder(dit)
    for embedder in embedders:
        embedder.class_embedder.dropout_prob = 0.0


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def share_embedder(dit: DiTTransformer2DModel) -> None:
    """Every block gets block 0's embedder module."""
    for block in dit.transformer_blocks[1:]:
        block.norm1.emb = dit.transformer_blocks[0].norm1.emb


def register_labels(pipe: DiTPipeline) -> None:
    """Put the class names where `save_pretrained` finds them: DiTPipeline reads id2label from model_index.json but does
    not write it."""
    names: dict[int, list[str]] = {}
    for name, label in pipe.labels.items():
        names.setdefault(label, []).append(name)
    if names:
        pipe.register_to_config(id2label={label: ", ".join(names[label]) for label in sorted(names)})


@contextmanager
def separate(dit: DiTTransformer2DModel) -> Iterator[None]:
    """A copy of a shared embedder in every block, as diffusers' class stores it: what is saved inside this context
    loads without this library."""
    shared = dit.transformer_blocks[0].norm1.emb
    blocks = [block for block in dit.transformer_blocks[1:] if hasattr(block, "norm1")]  # others were dropped
    sharing = [block for block in blocks if block.norm1.emb is shared]
    for block in sharing:
        block.norm1.emb = copy.deepcopy(shared)
    try:
        yield
    finally:
        for block in sharing:
            block.norm1.emb = shared
