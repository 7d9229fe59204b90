"""A Trainer in float64 on a tiny random UNet and random batches: exact enough to compare executions to 1e-9."""

import torch
from diffusers import UNet2DConditionModel
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import load_params
from alter_lib.backbones import wrap
from alter_lib.data.latents import Batch, generator
from alter_lib.params import Params
from alter_lib.training.trainer import Trainer

BATCH = 4


class RandomBatches:
    """The batch of a step is the same on any number of processes: each takes its share of one draw."""

    def places(self, step: int, rank: int, world_size: int) -> list[tuple[int, int]]:
        return [(step * BATCH + i, 0) for i in range(rank, BATCH, world_size)]

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        random = generator(7, step)
        latents, noise = torch.randn(2, BATCH, 4, 8, 8, generator=random)
        states, timesteps = (
            torch.randn(BATCH, 16, 16, generator=random),
            torch.randint(1000, (BATCH,), generator=random),
        )
        return Batch(*(part[rank::world_size] for part in (latents, noise, states, timesteps)))


def tiny_params(folder: object, **overrides: object) -> Params:
    """params/smoke.yaml on the CPU; `training__steps=3` overrides training.steps."""
    fixed = {"run.name": "tiny", "run.out": str(folder), "backbone.device": "cpu", "training.batch_size": BATCH,
             "training.warmup_steps": 2, "training.hypernetwork_learning_rate": 1e-3}  # fmt: skip
    return load_params("params/smoke.yaml", fixed | {k.replace("__", "."): v for k, v in overrides.items()})


def tiny_trainer(params: Params, dtype: torch.dtype = torch.float64) -> Trainer:
    """Half of the layers are off from the first step, so that samples and processes differ in what they skip."""
    pipeline = tiny_pipeline()
    pipeline.unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        attention_head_dim=(1, 1), cross_attention_dim=16, use_linear_projection=True, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).to(dtype)  # fmt: skip
    trainer = Trainer(params, wrap(pipeline), RandomBatches())
    trainer.net.mask_offset = -trainer.net.generator().median().item()
    if trainer.final_plan is not None:
        trainer.final_plan = None
        trainer.freeze_plan()
    trainer.refresh_masks()
    return trainer


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Weights of both networks and the state of both optimizers."""
    found = dict(trainer.student.state_dict()) | {f"net.{k}": v for k, v in trainer.net.state_dict().items()}
    for name, optimizer in trainer.optimizers.items():
        found |= {f"{name}.{key}": value.double() for key, value in optimizer.tensors().items()}
    return {key: value.detach().clone() for key, value in found.items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-9) -> None:
    """Every tensor within `tolerance` of the other, relative to its largest element. Moments of a weight that the loss
    does not depend on (what is added before a normalisation) are rounding alone, below 1e-17."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        atol = max(tolerance * value.abs().max().item(), 1e-17)
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )
