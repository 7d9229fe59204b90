"""Learning curves from snapshots, and the lean evaluation of a study."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evaluated_run import N, evaluated, plan_for
from safetensors.torch import save_file
from tiny_sd_pipeline import tiny_pipeline

from alter_lib.evaluation import evaluate
from alter_lib.evaluation.curve import evaluate_curve
from alter_lib.inference import save_pipeline
from alter_lib.params import Params, ParamsError, load_params
from alter_lib.plan import ExpertPlan
from alter_lib.training.snapshots import WEIGHTS, snapshot_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return evaluated(tmp_path_factory.mktemp("evaluation"))


def beside(run: dict, name: str, **overrides) -> Params:
    """The run under another name, with its artefact."""
    shutil.copytree(run["folder"] / "t" / "alter", run["folder"] / name / "alter")
    return load_params(run["params"], {"run.name": name, **overrides})


def test_without_the_teachers_pictures_its_figures_stay(run: dict) -> None:
    result = evaluate(beside(run, "lean", **{"evaluation.teacher_pictures": False}))
    assert list(result.grid.images) == ["real", "alter@3"]
    assert not any(metric.name.endswith("_to_teacher") for metric in result.metrics)
    for method in ("alter", "teacher"):
        value = run["result"].value("fid_alexnet", method, 3)
        assert result.value("fid_alexnet", method, 3) == pytest.approx(value, rel=1e-4)


def keep_snapshot(folder: Path, updates: int, pipeline, plan: ExpertPlan) -> None:
    home = snapshot_folder(folder, updates)
    home.mkdir(parents=True)
    save_file({name: value.half() for name, value in pipeline.unet.state_dict().items()}, home / WEIGHTS)
    plan.save(home)


def test_a_learning_curve_has_the_figures_of_each_snapshot(run: dict) -> None:
    """The first is the teacher under a plan that skips nothing, the second the artefact; stored in half precision."""
    keys = {"training.steps": 4, "training.snapshots": [2, 4], "evaluation.curve_images": N}
    params = load_params(run["params"], {"run.name": "curve", "evaluation.teacher_pictures": False, **keys})
    student, whole = tiny_pipeline(), plan_for(tiny_pipeline())  # autoencoder and text encoder are the teacher's
    student.unet = tiny_pipeline(seed=1).unet
    save_pipeline(student, whole, params.run_folder / "alter")
    keep_snapshot(params.run_folder, 2, tiny_pipeline(), replace(whole, masks=torch.ones_like(whole.masks)))
    keep_snapshot(params.run_folder, 4, student, whole)
    metrics, result = evaluate_curve(params), evaluate(params)
    written = json.loads((params.run_folder / "curve.json").read_text())["metrics"]
    assert [(each.name, each.updates) for each in metrics] == [(each["name"], each["updates"]) for each in written]
    fid = {each.updates: each for each in metrics if each.name == "fid_alexnet"}
    for updates, method in ((2, "teacher"), (4, "alter")):
        assert fid[updates].value == pytest.approx(result.value("fid_alexnet", method, 3), rel=0.02)
        assert (fid[updates].n, fid[updates].method, fid[updates].steps) == (N, "alter", 3)
    ratios = {each.updates: each.value for each in metrics if each.name == "macs_ratio"}
    assert ratios == {2: 1.0, 4: pytest.approx(whole.macs_ratio())}


def test_a_curve_that_nobody_asked_for_or_whose_snapshot_is_missing_is_one_line(run: dict) -> None:
    params = load_params(run["params"])
    with pytest.raises(ParamsError, match="evaluation.curve_images: a learning curve needs it and training.snapshots"):
        evaluate_curve(params)
    asked = {"training.snapshots": [1], "evaluation.curve_images": N}
    with pytest.raises(FileNotFoundError, match="t/snapshots: none after 1 updates"):
        evaluate_curve(load_params(params.dump(), asked))
