"""Several processes against one, in float64: two real ones (gloo), forked so that they need not import torch again."""

import os
import signal
from pathlib import Path

import pytest
import torch
from accelerate import debug_launcher
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from tiny_training import assert_equal, everything, tiny_params, tiny_trainer

from alter_lib import ParamsError
from alter_lib.training import trainer_state
from alter_lib.training.checkpoints import complete
from alter_lib.training.history import History
from alter_lib.training.loop import fit, resume

ON, OFF = {"training__hypernetwork_steps": 20}, {"training__hypernetwork_steps": 0}


def forked() -> None:
    """Forget the parent's accelerate: this process is one of several."""
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(1)


def run(folder: Path, steps: int, overrides: dict) -> dict[str, torch.Tensor]:
    trainer = tiny_trainer(tiny_params(folder, training__steps=20, **overrides))
    for _ in range(steps):
        trainer.step()
    return everything(trainer) if trainer.accelerator.is_main_process else {}


def train_forked(folder: Path, overrides: dict) -> None:
    forked()
    if state := run(folder, 20, overrides):
        save_file(state, folder / "two.safetensors")


@pytest.mark.parametrize("overrides", [ON, OFF], ids=["hypernetwork", "backbone alone"])
def test_two_processes_are_in_the_state_of_one_after_20_steps(tmp_path: Path, overrides: dict) -> None:
    debug_launcher(train_forked, (tmp_path, overrides), num_processes=2)
    assert_equal(load_file(tmp_path / "two.safetensors"), run(tmp_path, 20, overrides))


def go_on_forked(folder: Path) -> None:
    """From the checkpoint of one process; the second one is asked to stop after its first step."""
    forked()
    trainer = tiny_trainer(tiny_params(folder, training__steps=6, training__hypernetwork_steps=4))
    resume(trainer, folder / "checkpoints")
    assert trainer.step_count == 2

    def stop(trainer: object, row: dict) -> None:
        if row["step"] == 3 and trainer.accelerator.process_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    history = History(trainer.accelerator, trainer.params, trainer.step_count)
    assert fit(trainer, folder / "checkpoints", history, stop)
    assert trainer.step_count == 3  # both
    trainer.accelerator.wait_for_everyone()


def test_one_process_two_processes_stopped_and_one_again_are_one_run(tmp_path: Path) -> None:
    params = tiny_params(tmp_path, training__steps=6, training__hypernetwork_steps=4)
    whole, parts = tiny_trainer(params), tiny_trainer(params)
    for _ in range(6):
        whole.step()
    for _ in range(2):
        parts.step()
    trainer_state.save(parts, tmp_path / "checkpoints")
    debug_launcher(go_on_forked, (tmp_path,), num_processes=2)
    assert [path.name for path in complete(tmp_path / "checkpoints")] == ["step-000002", "step-000003"]
    last = tiny_trainer(params)
    resume(last, tmp_path / "checkpoints")
    while last.step_count < 6:
        last.step()
    assert_equal(everything(last), everything(whole))


def odd_forked(folder: Path) -> None:
    forked()
    with pytest.raises(ParamsError, match=r"batch_size: 4 is not a multiple of the 3 processes x gradient_acc"):
        tiny_trainer(tiny_params(folder))


def test_a_batch_that_the_processes_can_t_share_is_refused(tmp_path: Path) -> None:
    debug_launcher(odd_forked, (tmp_path,), num_processes=3)
