"""Micro-batches, gradient checkpointing and compiled layers change memory and time, not the gradients (float64)."""

import functools
from pathlib import Path

import pytest
import torch
from tiny_training import assert_equal, everything, tiny_params, tiny_trainer

from alter_lib.training.trainer import Trainer

STEPS = {"training__steps": 2, "training__hypernetwork_steps": 1}  # one with the hypernetwork, one without


def trained(folder: Path, **overrides: object) -> dict[str, torch.Tensor]:
    trainer = tiny_trainer(tiny_params(folder, **STEPS, **overrides))
    rows = [trainer.step() for _ in range(2)]
    assert all(row["grad_norm"] > 0 for row in rows) and rows[0]["hypernetwork_grad_norm"] > 0
    losses = {f"{row['step']}.{k}": torch.tensor(v) for row in rows for k, v in row.items() if k.startswith("L_")}
    return everything(trainer) | {key: value.double() for key, value in losses.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return trained(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("count", [2, 4])
def test_micro_batches_add_up_to_the_batch(tmp_path: Path, whole: dict, count: int) -> None:
    assert_equal(trained(tmp_path, training__gradient_accumulation_steps=count), whole)


@pytest.mark.parametrize("execution", ["sub_batch", "masked"])
def test_layers_that_are_run_again_give_the_same_gradients(tmp_path: Path, whole: dict, execution: str) -> None:
    found = trained(tmp_path, training__gradient_checkpointing=True, training__execution=execution)
    assert_equal(found, whole)


def test_compiled_layers_and_teacher_give_the_same_gradients(
    tmp_path: Path, whole: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced by Dynamo, run without a compiler: what a graph holds, not how fast it is."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    assert_equal(trained(tmp_path, training__compile="both", training__gradient_checkpointing=True), whole)


def stored(trainer: Trainer) -> int:
    """Bytes that one step keeps for its backward passes."""
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in trainer.theta}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer.step()
    return sum(size for address, size in sizes.items() if address not in weights)


def test_gradient_checkpointing_keeps_fewer_activations(tmp_path: Path) -> None:
    """After T_end, when theta alone is trained."""
    keep, repeat = (
        tiny_trainer(tiny_params(tmp_path, training__hypernetwork_steps=0, training__gradient_checkpointing=flag))
        for flag in (False, True)
    )
    assert stored(repeat) < 0.6 * stored(keep)
