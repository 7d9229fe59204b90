"""Half precision: the teacher's own dtype, float32 master weights, the loss scale of fp16."""

from pathlib import Path

import pytest
import torch
from tiny_training import everything, tiny_params, tiny_trainer

from alter_lib import ParamsError
from alter_lib.training.trainer import Trainer


def one_step(folder: Path, dtype: torch.dtype = torch.float32, **overrides: object) -> tuple[Trainer, dict]:
    trainer = tiny_trainer(tiny_params(folder, **overrides), dtype)
    return trainer, trainer.step()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_teacher_in_half_precision_teaches_nearly_the_same(tmp_path: Path, dtype: str) -> None:
    _, full = one_step(tmp_path)
    trainer, half = one_step(tmp_path, training__teacher_dtype=dtype, training__mixed_precision="bf16")
    assert {p.dtype for p in trainer.objective.teacher.parameters()} == {getattr(torch, dtype)}
    assert {p.dtype for p in trainer.theta} == {torch.float32}
    assert half["L_U"] == pytest.approx(full["L_U"], rel=0.1) and half["L_U"] != full["L_U"]


def test_a_backbone_loaded_in_half_precision_is_trained_in_float32(tmp_path: Path) -> None:
    trainer, row = one_step(tmp_path, torch.bfloat16)
    assert {p.dtype for p in trainer.theta} == {torch.float32} and row["L_U"] > 0
    assert {value.dtype for value in trainer.net.state_dict().values()} == {torch.float32}


def test_fp16_without_a_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="training.mixed_precision: fp16 and its loss scale need a GPU"):
        one_step(tmp_path, training__mixed_precision="fp16")


def scaled(folder: Path, scale: float) -> Trainer:
    """A trainer whose losses are scaled, as fp16 has it, in the float64 of this test."""
    trainer = tiny_trainer(tiny_params(folder))
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    for optimizer in trainer.optimizers.values():
        optimizer.scaler = scaler
    return trainer


def test_the_loss_scale_leaves_the_step_as_it_is(tmp_path: Path) -> None:
    plain, trainer = tiny_trainer(tiny_params(tmp_path)), scaled(tmp_path, 1024.0)
    rows = plain.step(), trainer.step()
    assert rows[1]["grad_norm"] == pytest.approx(rows[0]["grad_norm"], rel=1e-12)
    for name, value in everything(plain).items():
        torch.testing.assert_close(everything(trainer)[name], value, rtol=1e-9, atol=1e-12)


def test_gradients_that_overflow_change_nothing_but_the_scale(tmp_path: Path) -> None:
    trainer = scaled(tmp_path, float("inf"))
    before, rates = everything(trainer), [o.schedule.last_epoch for o in trainer.optimizers.values()]
    row = trainer.step()
    assert not torch.tensor(row["grad_norm"]).isfinite()
    assert [o.schedule.last_epoch for o in trainer.optimizers.values()] == rates
    after = everything(trainer)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(after[f"{network}.0.step"] for network in trainer.optimizers)
