"""Algorithm 1 on a tiny random pipeline and real emoji: resume, execution modes, phases."""

import csv
import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import ExpertPlan, ParamsError, load_params, train
from alter_lib.run_folder.changed_params import SECTIONS, differences
from alter_lib.training.snapshots import WEIGHTS, snapshot_folder
from alter_lib.training.trainer import Trainer


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


@pytest.mark.parametrize(
    ("options", "iterations"),
    [
        ({}, 6),
        ({"training__order": "two_stage"}, 10),
        ({"training__hypernetwork_steps": 0, "training__plan": "random"}, 6),
        ({"training__routing_intervals": 2}, 6),
        ({"backbone__id": "assets/tiny_dit", "data__source": "fashion", "loss__feature_points": 3,
          "loss__target_ratio": 0.5, "cost__denominator": "prunable"}, 6),
    ],
    ids=["joint", "two_stage", "given_plan", "snapped", "dit"],
)
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(params, options, iterations):
    """Stopped twice: before T_end between two checkpoints, and after it."""
    whole = train(params("whole", **options))

    def stop(trainer, _row):
        if trainer.step_count in (3, 5):
            os.kill(os.getpid(), signal.SIGTERM)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(params("parts", **options), stop)
    resumed = train(params("parts", **options))
    assert artefact_bytes(resumed) == artefact_bytes(whole)
    assert history(resumed) == history(whole) and len(history(whole)) == iterations
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


def test_an_artefact_that_lost_a_file_is_made_again_and_so_is_what_the_summary_says(params):
    result = train(params("lost", training__correct_ratio=False))
    before, provenance = artefact_bytes(result), result.folder / "provenance.json"
    warnings = json.loads(provenance.read_text())["warnings"]
    assert warnings and set(before) and (result.artefact / "plan.json").is_file()
    (result.artefact / "plan.json").unlink()
    os.truncate(result.artefact / next(iter(before)), 99)
    provenance.unlink()  # as where a kill came before it was written
    again = train(params("lost", training__correct_ratio=False))
    assert artefact_bytes(again) == before and ExpertPlan.load(again.artefact) == result.plan
    found = json.loads(provenance.read_text())
    assert found["warnings"] == warnings and found["wall_seconds"]["training"] > 0


def test_a_run_with_other_params_is_refused_and_kept(params):
    result = train(params("kept"))
    before = artefact_bytes(result)
    with pytest.raises(ParamsError, match=r"training\.learning_rate = 0\.0001, now 0\.001"):
        train(params("kept", training__learning_rate=0.001))
    assert artefact_bytes(result) == before


class Recorded:
    """The batches of a trainer, and which were asked for."""

    def __init__(self, batches):
        self.batches, self.numbers = batches, []

    def batch(self, number, *process):
        self.numbers.append(number)
        return self.batches.batch(number, *process)


def steps_of(optimizer) -> set[float]:
    """How often the parameters of a network were updated, by AdamW's own count."""
    return {value.item() for key, value in optimizer.tensors().items() if key.endswith(".step")}


def test_two_stage_updates_each_network_as_often_and_on_the_same_batches_as_joint(params):
    trainer = Trainer(params(training__order="two_stage"))
    trainer.batches = Recorded(trainer.batches)
    start = {name: value.clone() for name, value in trainer.student.state_dict().items()}
    rows = [trainer.step() for _ in range(4)]
    assert {row["phase"] for row in rows} == {"hypernetwork"} and all("L_U" not in row for row in rows)
    assert all(torch.equal(value, start[name]) for name, value in trainer.student.state_dict().items())
    phi = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    assert {trainer.step()["phase"] for _ in range(6)} == {"backbone"}
    assert all(torch.equal(value, phi[name]) for name, value in trainer.net.state_dict().items())
    assert trainer.params.training.iterations == trainer.step_count == 10
    assert steps_of(trainer.optimizers["phi"]) == {4} and steps_of(trainer.optimizers["theta"]) == {6}
    assert trainer.batches.numbers == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    assert trainer.optimizers["theta"].learning_rate == 0  # the end of its cosine: it has had all its updates


@pytest.mark.parametrize("mode", ["sub_batch", "reference"])
def test_two_stage_knows_every_execution(params, mode):
    trainer = Trainer(params(training__order="two_stage", training__hypernetwork_steps=1, training__execution=mode))
    assert [trainer.step()["phase"] for _ in range(2)] == ["hypernetwork", "backbone"]


def test_the_last_snapshot_is_the_artefact_and_resuming_changes_none(params):
    def stop(trainer, _row):
        if trainer.step_count == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    kept = {"training__snapshots": [4, 6]}
    whole = train(params("whole", **kept))
    with pytest.raises(KeyboardInterrupt):
        train(params("parts", **kept), stop)
    parts = train(params("parts", **kept))
    for updates in (4, 6):
        files = [snapshot_folder(run.folder, updates) / WEIGHTS for run in (whole, parts)]
        assert files[0].read_bytes() == files[1].read_bytes()
    last = load_file(snapshot_folder(whole.folder, 6) / WEIGHTS)
    artefact = load_file(whole.artefact / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(value, artefact[name]) for name, value in last.items()) and last.keys() == artefact.keys()
    at_t_end = ExpertPlan.load(snapshot_folder(whole.folder, 4))
    assert torch.equal(at_t_end.masks, whole.plan.masks)
    early = load_file(snapshot_folder(whole.folder, 4) / WEIGHTS)
    assert any(not torch.equal(value, last[name]) for name, value in early.items())


def test_a_checkpoint_from_before_a_key_was_there_means_its_default(params):
    now = params()
    then = {name: dict(now.dump()[name]) for name in SECTIONS}
    del then["training"]["order"]
    assert differences(then, now) == []
    assert differences(then, params(training__order="two_stage")) == ["training.order = 'joint', now 'two_stage'"]
