"""Algorithm 1 on a tiny random pipeline and real emoji: resume, execution modes, phases."""

import csv
import os
import signal

import pytest
import torch
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import ParamsError, load_params, train
from alter_lib.trainer import Trainer


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def params(pipeline_folder, tmp_path):
    def make(name: str = "run", **overrides):
        return load_params(
            "params/smoke.yaml",
            {
                "run.name": name,
                "run.out": str(tmp_path),
                "backbone.id": str(pipeline_folder),
                "backbone.device": "cpu",
                "data.limit": 24,
                "training.steps": 6,
                "training.hypernetwork_steps": 4,
                "training.batch_size": 4,
                "training.checkpoint_every": 2,
                **{key.replace("__", "."): value for key, value in overrides.items()},
            },
        )

    return make


def artefact_bytes(result) -> dict[str, bytes]:
    return {str(p.relative_to(result.artefact)): p.read_bytes() for p in result.artefact.rglob("*.safetensors")}


def history(result) -> list[dict]:
    with (result.folder / "history.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]  # all but times


def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(params):
    """Stopped twice: in the joint phase between two checkpoints, and after T_end."""
    whole = train(params("whole"))

    def stop(trainer, _row):
        if trainer.step_count in (3, 5):
            os.kill(os.getpid(), signal.SIGTERM)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(params("parts"), stop)
    resumed = train(params("parts"))
    assert artefact_bytes(resumed) == artefact_bytes(whole)
    assert history(resumed) == history(whole) and len(history(whole)) == 6
    assert resumed.plan.to_dict() | {"provenance": 0} == whole.plan.to_dict() | {"provenance": 0}


def test_masked_and_sub_batch_execution_give_the_same_steps(params):
    trainers = [Trainer(params(mode, training__execution=mode)) for mode in ("sub_batch", "masked")]
    for trainer in trainers:  # half of the layers are off from the first step
        trainer.net.mask_offset = -trainer.net.generator().median().item()
        trainer.refresh_masks()
        assert not trainer.masks.all()
    rows = [[trainer.step() for trainer in trainers] for _ in range(2)]
    for sub_batch, masked in rows:
        for key, value in masked.items():
            if key.endswith("seconds"):
                continue
            assert sub_batch[key] == (value if isinstance(value, str) else pytest.approx(value, rel=2e-3, abs=1e-6)), (
                key
            )


def test_phi_is_frozen_after_t_end_and_theta_never_sees_its_update(params):
    trainer = Trainer(params())
    teacher = {name: value.clone() for name, value in trainer.objective.teacher.state_dict().items()}
    for _ in range(4):
        assert trainer.step()["phase"] == "joint"
    phi = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    masks = trainer.masks.clone()
    assert trainer.step()["phase"] == "backbone"
    assert all(torch.equal(value, phi[name]) for name, value in trainer.net.state_dict().items())
    assert torch.equal(trainer.masks, masks)
    assert all(torch.equal(value, teacher[name]) for name, value in trainer.objective.teacher.state_dict().items())


def test_the_frozen_plan_meets_its_budget_where_asked_to(params):
    result = train(params("budget", training__correct_ratio=True))
    assert abs(result.plan.achieved_ratio - 0.65) <= 0.0065


def test_reference_execution_follows_the_authors_order(params):
    row = Trainer(params(training__execution="reference", hypernetwork__estimator="soft")).step()
    assert row["L_H"] > 0 and row["L_U"] > 0


def test_bf16_autocast_trains_float32_weights_close_to_full_precision(params):
    rows = [Trainer(params(kind, training__mixed_precision=kind)).step() for kind in ("no", "bf16")]
    assert rows[1]["L_U"] == pytest.approx(rows[0]["L_U"], rel=0.05) and rows[0]["L_U"] != rows[1]["L_U"]


def test_a_run_with_other_params_is_refused_and_kept(params):
    result = train(params("kept"))
    before = artefact_bytes(result)
    with pytest.raises(ParamsError, match=r"training\.learning_rate = 0\.0001, now 0\.001"):
        train(params("kept", training__learning_rate=0.001))
    assert artefact_bytes(result) == before
