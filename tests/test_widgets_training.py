"""The training dashboard and the record of the plan while it is learned."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from IPython.display import Image
from tiny_sd_pipeline import tiny_pipeline
from tiny_training import RandomBatches, tiny_params

from alter_lib.params import Params, load_params
from alter_lib.plan import CostTable, ExpertPlan
from alter_lib.plan.file import PlanError
from alter_lib.training import trainer_state
from alter_lib.training.plan_history import PlanHistory, PlanRecorder
from alter_lib.training.plan_source import plan_at
from alter_lib.training.trainer import Trainer
from alter_lib.widgets import PlanComparison, TrainingDashboard, dashboard

NAMES = ("down_blocks.0.resnets.0", "mid_block.attentions.0", "up_blocks.1.resnets.0")
COSTS = CostTable((10, 20, 30), 40, "linear+conv", (8, 8))


def fake_trainer(step: int) -> SimpleNamespace:
    """What a callback reads of a trainer: masks that lose a layer a step, routing that moves on."""
    masks, routing = torch.ones(2, 3, dtype=torch.bool), (torch.arange(20) + step) % 2
    masks.view(-1)[:step] = False
    plan = ExpertPlan(masks, routing, NAMES, COSTS, "UNet2DConditionModel", "hash", 0.65)
    return SimpleNamespace(
        masks=masks, routing=routing, current_plan=lambda: plan, accelerator=SimpleNamespace(is_main_process=True)
    )


def row(step: int) -> dict:
    return {"step": step, "phase": "joint", "L_U": 1.0 / step, "L_H": 2.0 / step, "ratio": 0.7, "sampled_ratio": 0.8,
            "images_per_second": 16.0}  # fmt: skip


@pytest.fixture
def params(tmp_path: Path) -> Params:
    params = load_params("params/smoke.yaml", {"run.out": str(tmp_path)})  # 12 steps, the hypernetwork for 8
    params.run_folder.mkdir()
    return params


def test_every_step_of_a_short_hypernetwork_phase_is_recorded(params: Params) -> None:
    recorder = PlanRecorder(params)
    for step in range(1, 13):
        recorder(fake_trainer(min(step, 6)), row(step))
    history = PlanHistory.load(params.run_folder)
    assert history.steps.tolist() == list(range(1, 9))
    np.testing.assert_array_equal(history.masks.sum((1, 2)), [5, 4, 3, 2, 1, 0, 0, 0])
    plan = history.plan(1, fake_trainer(0).current_plan())  # step 2: expert 0 runs its last layer, expert 1 all
    assert plan.expert_macs() == [70, 100] and plan.provenance["training_step"] == 2


def test_a_long_phase_gives_about_fifty_records_and_its_last_step(params: Params) -> None:
    recorder = PlanRecorder(load_params(params.dump(), {"training.steps": 300, "training.hypernetwork_steps": 205}))
    for step in range(1, 301):
        recorder(fake_trainer(1), row(step))
    assert 50 <= len(recorder.steps) <= 55 and recorder.steps[0] == 1 and recorder.steps[-1] == 205


def test_steps_that_are_made_again_replace_the_lost_ones(params: Params) -> None:
    first = PlanRecorder(params)
    for step in (1, 2, 3):
        first(fake_trainer(step), row(step))
    resumed = PlanRecorder(params)  # the checkpoint was at step 1
    resumed(fake_trainer(5), row(2))
    history = PlanHistory.load(params.run_folder)
    assert history.steps.tolist() == [1, 2] and history.masks[1].sum() == 1
    assert not list(params.run_folder.glob("*.tmp"))


def test_checkpoints_of_a_run_are_plans_before_and_after_the_hypernetwork_s_last_step(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "backbone")
    params = tiny_params(tmp_path, backbone__id=str(tmp_path / "backbone"), training__steps=3,
                         training__hypernetwork_steps=2, hypernetwork__mask_offset=0.0)  # fmt: skip
    trainer, expected = Trainer(params, batches=RandomBatches()), {}
    for step in (1, 3):
        while trainer.step_count < step:
            trainer.step()
        trainer_state.save(trainer, params.run_folder / "checkpoints")
        expected[f"step-{step:06d}"] = trainer.current_plan()
    folders = {name: params.run_folder / "checkpoints" / name for name in expected}
    comparison = PlanComparison(folders)
    for name, plan in expected.items():
        found = comparison.plans[name]
        assert 0 < plan.masks.sum() < plan.masks.numel()
        assert torch.equal(found.masks, plan.masks) and torch.equal(found.routing, plan.routing)
        assert (found.cost, found.architecture_hash) == (plan.cost, plan.architecture_hash)
    last = folders["step-000003"]
    (last / "hypernetwork.safetensors").write_bytes(b"")
    with pytest.raises(PlanError, match="step-000003: damaged checkpoint: hypernetwork.safetensors"):
        plan_at(last)
    with pytest.raises(PlanError, match="plan.json: no such file"):
        plan_at(tmp_path)


class Handle:
    """Stands for a notebook's output area: what was displayed in it, in order."""

    def __init__(self) -> None:
        self.shown: list[Image] = []

    def display(self, picture: Image, display_id: bool) -> "Handle":
        assert display_id
        self.update(picture)
        return self

    def update(self, picture: Image) -> None:
        self.shown.append(picture)


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    handle = Handle()
    monkeypatch.setattr(dashboard, "display", handle.display)
    return handle


def test_dashboard_paints_now_and_then_and_at_the_end(handle: Handle, params: Params) -> None:
    patient = TrainingDashboard(params, seconds=3600)
    for step in range(1, 12):
        patient(fake_trainer(1), row(step))
    assert handle.shown == []
    patient(fake_trainer(1), row(12))
    assert len(handle.shown) == 1 and handle.shown[0].data.startswith(b"\x89PNG")
    eager = TrainingDashboard(params, seconds=0)
    eager(fake_trainer(1), row(1))
    assert len(handle.shown) == 2
    eager(fake_trainer(1), row(2))  # right after a picture: painting may take a twentieth of the time only
    assert len(handle.shown) == 2


def test_dashboard_goes_on_after_an_interruption(handle: Handle, params: Params) -> None:
    lines = "step,phase,L_U,ratio\n1,joint,1,0.9\n2,joint,1,0.9\n3,joint,1,0.9\n"
    (params.run_folder / "history.csv").write_text(lines)
    resumed = TrainingDashboard(params)
    resumed(fake_trainer(1), row(2))  # the checkpoint was at step 1: steps 2 and 3 are made again
    assert [each["step"] for each in resumed.rows] == [1, 2]


def test_time_left_by_hand() -> None:
    import pandas as pd

    history = pd.DataFrame([row(step) for step in range(1, 121)])
    assert dashboard.progress_text(history, 400, 32) == "step 120 of 400, 16 images/s, about 9m20s left at this speed"
    assert dashboard.progress_text(history, 120, 32) == "all 120 steps done, 16 images/s at the end"
