"""What identifies a denoiser's architecture: the configuration keys that give tensors their shapes."""

import hashlib
import json

from torch import nn

SHAPE_KEYS = {
    "UNet2DConditionModel": (
        "in_channels",
        "out_channels",
        "down_block_types",
        "mid_block_type",
        "up_block_types",
        "block_out_channels",
        "layers_per_block",
        "cross_attention_dim",
        "transformer_layers_per_block",
        "attention_head_dim",
        "num_attention_heads",
        "use_linear_projection",
        "only_cross_attention",
        "dual_cross_attention",
        "class_embed_type",
        "addition_embed_type",
        "time_embedding_dim",
    ),
    "DiTTransformer2DModel": (
        "in_channels",
        "out_channels",
        "num_layers",
        "num_attention_heads",
        "attention_head_dim",
        "patch_size",
        "sample_size",
        "num_embeds_ada_norm",
    ),
}


def architecture_hash(denoiser: nn.Module) -> str:
    """SHA-256 over the class name and its shape-giving configuration: the same for every checkpoint of a family."""
    name = type(denoiser).__name__
    shapes = {key: denoiser.config.get(key) for key in SHAPE_KEYS[name]}
    return hashlib.sha256(json.dumps([name, shapes], sort_keys=True).encode()).hexdigest()
