"""What a run may ask for besides: LoRA, 8-bit AdamW, trackers."""

import sys
from pathlib import Path

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, on_main_process
from tiny_training import everything, tiny_params, tiny_trainer

from alter_lib import ParamsError
from alter_lib.training import checkpoints, trainer_state
from alter_lib.training.history import HISTORY, History

LORA = {"training__lora_rank": 2, "training__steps": 4, "training__hypernetwork_steps": 2}


def test_lora_trains_adapters_alone_and_a_checkpoint_holds_nothing_else(tmp_path: Path) -> None:
    trainer = tiny_trainer(tiny_params(tmp_path, **LORA))
    before = {name: value.clone() for name, value in trainer.student.state_dict().items()}
    for _ in range(3):
        trainer.step()
    moved = {n for n, value in trainer.student.state_dict().items() if not torch.equal(value, before[n])}
    adapters = {n for n in before if ".lora_" in n}
    assert moved == adapters and len(adapters) == len(trainer.theta) == 64  # 8 attentions x 4 projections x A, B
    trainer_state.save(trainer, tmp_path / "checkpoints")
    (path,) = checkpoints.complete(tmp_path / "checkpoints")
    assert set(checkpoints.tensors(path, "student")) == adapters
    again = tiny_trainer(tiny_params(tmp_path, **LORA))
    trainer_state.restore(again, path)
    trainer.step(), again.step()
    assert all(torch.equal(value, everything(again)[name]) for name, value in everything(trainer).items())


def test_merged_adapters_are_the_same_network_under_the_old_names(tmp_path: Path) -> None:
    plain, trainer = tiny_trainer(tiny_params(tmp_path)), tiny_trainer(tiny_params(tmp_path, **LORA))
    for _ in range(2):
        trainer.step()
    noised = trainer.objective.noise(trainer.batches.batch(0))
    with torch.no_grad():
        adapted = trainer.objective.run(trainer.student, noised)[0]
        untrained = plain.objective.run(plain.student, noised)[0]
        trainer.adapters.merge_and_unload()
        merged = trainer.objective.run(trainer.student, noised)[0]
    torch.testing.assert_close(merged, adapted, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(merged, untrained, rtol=1e-6)
    assert trainer.student.state_dict().keys() == plain.student.state_dict().keys()


def test_8_bit_adamw_without_its_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ParamsError, match=r"^training.optimizer: adamw_8bit needs bitsandbytes, which is not inst"):
        tiny_trainer(tiny_params(tmp_path, training__optimizer="adamw_8bit"))


def test_trackers_that_can_t_be_had_are_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError) as caught:
        tiny_trainer(tiny_params(tmp_path, training__trackers=["clearml", "tensorbored"]))
    absent, unknown = str(caught.value).splitlines()
    assert absent == "training.trackers: clearml is not installed"
    assert unknown.startswith("training.trackers: 'tensorbored' is not one of aim | clearml")


class Kept(GeneralTracker):
    """A tracker of one's own, as accelerate takes it: keeps what it is told."""

    name, requires_logging_directory, rows = "kept", False, []

    def __init__(self, run_name: str) -> None:
        super().__init__()
        self.run_name = run_name

    @property
    def tracker(self) -> list:
        return self.rows

    @on_main_process
    def store_init_configuration(self, values: dict) -> None:
        self.rows.append((self.run_name, values))

    @on_main_process
    def log(self, values: dict, step: int | None = None, **_: object) -> None:
        self.rows.append((step, values))


def test_a_tracker_gets_the_params_and_each_row_of_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "kept", Kept)
    trainer = tiny_trainer(tiny_params(tmp_path, training__trackers=["kept"]))
    history = History(trainer.accelerator, trainer.params, 0)
    row = trainer.step()
    history.write(row)
    history.close()
    (name, params), (step, values) = Kept.rows
    assert (name, params["training.batch_size"], params["backbone.variant"]) == ("tiny", 4, "None")
    assert step == 1 and values == {key: value for key, value in row.items() if key != "phase"}
    header, line = (tmp_path / "tiny" / "history.csv").read_text().splitlines()
    assert tuple(header.split(",")) == HISTORY
    cells = dict(zip(HISTORY, line.split(","), strict=True))
    assert {key for key, cell in cells.items() if not cell} == {"images_per_second", "gpu_memory_gib"}
    parts = [float(cells[f"{phase}_seconds"]) for phase in ("data", "teacher", "hypernetwork", "backbone")]
    assert all(part > 0 for part in parts)
