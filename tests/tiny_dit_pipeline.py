"""A DiTPipeline with tiny random networks: 8 blocks, learned variance, 32 px images."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import nn

BLOCKS = 8


def tiny_transformer(seed: int = 0) -> DiTTransformer2DModel:
    """Random everywhere: diffusers leaves adaLN-zero's gates at their usual initialisation, so every block matters."""
    torch.manual_seed(seed)
    return DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8,
                                 num_layers=BLOCKS, sample_size=8, num_embeds_ada_norm=1000).eval()  # fmt: skip


def equal_embedders(dit: DiTTransformer2DModel) -> DiTTransformer2DModel:
    """As in a released checkpoint: each block has a copy of its own, all equal."""
    first = dit.transformer_blocks[0].norm1.emb.state_dict()
    for block in dit.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first)
    return dit


def tiny_dit_pipeline(seed: int = 0) -> DiTPipeline:
    transformer = equal_embedders(tiny_transformer(seed))
    vae = AutoencoderKL(
        latent_channels=4, sample_size=32, block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)
    pipeline = DiTPipeline(transformer, vae.eval(), scheduler, id2label={i: f"class {i}" for i in range(10)})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def embedders(dit: DiTTransformer2DModel) -> list[nn.Module]:
    return [block.norm1.emb for block in dit.transformer_blocks]
