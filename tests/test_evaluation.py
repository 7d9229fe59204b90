"""`evaluate` from a run folder to metrics.json, on a tiny random pipeline and the real pictures; the paper's tables."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluated_run import N, evaluated, plan_for
from IPython.display import Markdown
from tiny_sd_pipeline import tiny_pipeline

from alter_lib.backbones import wrap
from alter_lib.backbones.macs import LINEAR_CONV, WITH_ATTENTION
from alter_lib.evaluation import EvaluationResult, beside_paper, evaluate, paper_table
from alter_lib.evaluation.__main__ import main
from alter_lib.evaluation.cost import PAPER as TABLE_1_COUNTER
from alter_lib.evaluation.cost import sampler_macs
from alter_lib.evaluation.generation import Sampler
from alter_lib.evaluation.our_tables import printed
from alter_lib.evaluation.paper_tables import PAPER
from alter_lib.evaluation.protocol import load_protocol
from alter_lib.inference import save_pipeline
from alter_lib.params import Params, ParamsError, load_params
from alter_lib.plan import ExpertPlan
from alter_lib.tables import paper_comparison


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return evaluated(tmp_path_factory.mktemp("evaluation"))


def with_evaluation(run: dict, **values) -> Params:
    return load_params(run["params"], {f"evaluation.{key}": value for key, value in values.items()})


def test_every_figure_is_there_with_its_context(run: dict) -> None:
    content = json.loads((run["folder"] / "t" / "metrics.json").read_text())
    found = {(m["method"], m.get("steps"), m["name"], m.get("against")) for m in content["metrics"]}
    for method, steps in (("real", None), ("teacher", 4), ("teacher", 3), ("alter", 3)):
        for name in ("fid_alexnet", "kid_alexnet", "proxy_text_score", "proxy_r1", "proxy_r5"):
            assert (method, steps, name, None) in found
    assert {("alter", 3, "fid_alexnet_ratio", f"teacher@{s}") for s in (4, 3)} <= found
    assert {
        (m, 3, f"{n}_to_teacher", "teacher@25") for m in ("alter", "teacher") for n in ("psnr", "ssim", "lpips")
    } <= found
    assert {("vae", None, name, None) for name in ("psnr_vae", "psnr_vae_held_out")} <= found
    for metric in content["metrics"]:
        if "macs" in metric["name"]:
            assert (metric["sampler"], metric["guidance_scale"], metric["resolution"]) == ("PNDMScheduler", 3.0, 32)
        if metric["name"] == "macs_per_call":
            assert metric["macs_convention"] in (LINEAR_CONV, WITH_ATTENTION, TABLE_1_COUNTER)
        elif "macs" in metric["name"]:
            assert metric["macs_convention"].startswith("linear+conv+attention")
        elif metric["method"] != "vae":
            assert metric["n"] == N
            low, high = metric["interval"]
            assert low <= metric["value"] <= high or metric["name"].startswith(("fid", "kid"))
            assert metric["protocol"] == "embedded" and metric["resolution"] == 32 and metric["resize"]
            assert len(metric["prompts"]) == 16
            assert ("weights" in metric) == ("extractor" in metric)
            assert ("sampler" in metric) == ("guidance_scale" in metric) == (metric["method"] != "real")
    assert not any(re.search(r"\bfid\b", metric["name"]) for metric in content["metrics"])  # never the name "FID"
    assert (run["folder"] / "t" / "provenance.json").is_file()


def test_ratio_and_costs_by_hand(run: dict) -> None:
    result: EvaluationResult = run["result"]
    fid = {s: result.value("fid_alexnet", "teacher", s) for s in (4, 3)}
    assert (
        result.value("fid_alexnet_ratio", "alter", 3, "teacher@4") == result.value("fid_alexnet", "alter", 3) / fid[4]
    )
    backbone, plan = wrap(tiny_pipeline()), plan_for(tiny_pipeline())
    # PNDM at 3 steps calls 4 times (the second timestep twice), and guidance doubles every call
    assert result.value("total_macs", "teacher", 3) == 4 * 2 * backbone.total_macs
    visited = [667, 334, 334, 1]
    share = plan.macs_ratio(visited)
    assert result.value("macs_ratio_visited", "alter", 3) == pytest.approx(share)
    assert result.value("total_macs", "alter", 3) == pytest.approx(share * 8 * backbone.total_macs, rel=1e-9)
    assert result.value("macs_ratio", "alter", 3) == plan.macs_ratio()


def test_a_control_run_is_measured_beside_alter(run: dict) -> None:
    """Here: the teacher's own weights under a plan that skips nothing, so that its figures must be the teacher's."""
    control = tiny_pipeline()
    backbone = wrap(control)
    everything = torch.ones(1, len(backbone.layers), dtype=torch.bool)
    plan = ExpertPlan.for_backbone(backbone, everything, torch.zeros(backbone.num_train_timesteps, dtype=torch.long))
    save_pipeline(control, plan, run["folder"] / "unpruned" / "alter")
    shutil.copytree(run["folder"] / "t" / "alter", run["folder"] / "beside" / "alter")
    overrides = {"run.name": "beside", "evaluation.controls": ["unpruned"]}
    result = evaluate(load_params(run["params"], overrides))
    for name in ("fid_alexnet", "proxy_text_score", "total_macs"):
        assert result.value(name, "unpruned", 3) == pytest.approx(result.value(name, "teacher", 3), rel=1e-3)
    assert result.value("fid_alexnet_ratio", "unpruned", against="teacher@3") == pytest.approx(1, rel=1e-3)
    ours, before = (each.value("fid_alexnet", "alter", 3) for each in (result, run["result"]))
    assert ours == pytest.approx(before, rel=1e-4)
    assert list(result.grid.images) == ["real", "teacher@3", "alter@3"]


def test_calls_of_the_papers_sampler() -> None:
    params = load_params("params/sd21.yaml")
    backbone = wrap(tiny_pipeline())
    calls = {s: sampler_macs(params, backbone, s) / (2 * backbone.total_macs) for s in (50, 25, 20)}
    assert calls == {50: 51, 25: 26, 20: 21}


def test_the_grid_shows_equal_prompts_and_seeds(run: dict) -> None:
    grid = EvaluationResult.load(run["folder"] / "t").grid
    assert list(grid.images) == ["real", "teacher@3", "alter@3"]
    assert len(grid.prompts) == len(grid.images["alter@3"]) > 0
    assert not any("skin" in prompt for prompt in grid.prompts)
    assert (grid.images["teacher@3"] != grid.images["alter@3"]).any()
    assert grid.timesteps["alter@3"] == [667, 334, 334, 1]
    params = load_params(run["params"])
    prompts = list(load_protocol(params).prompts)
    chosen = [prompts.index(prompt) for prompt in grid.prompts]
    again = Sampler(tiny_pipeline(), params.sampling, 3).draw(prompts, chosen)
    assert np.abs(again.astype(int) - grid.images["teacher@3"].astype(int)).max() <= 1


def test_saved_and_loaded_results_are_equal(run: dict) -> None:
    loaded = EvaluationResult.load(run["folder"] / "t")
    assert loaded.metrics == run["result"].metrics and loaded.notes == run["result"].notes
    assert len(loaded.frame()) == len(loaded.metrics)
    with pytest.raises(KeyError, match="no fid_alexnet of alter at 99 steps"):
        loaded.value("fid_alexnet", "alter", 99)


def assert_same(result: EvaluationResult, before: EvaluationResult) -> None:
    """Equal up to the rounding of float32 kernels, which varies with where an array lies in memory."""
    for metric, other in zip(result.metrics, before.metrics, strict=True):
        value, interval = (x and pytest.approx(x, 1e-4, 1e-6) for x in (other.value, other.interval))
        assert metric == replace(other, value=metric.value, interval=metric.interval)
        assert metric.value == value and metric.interval == interval


def test_a_second_evaluation_draws_nothing(run: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sampler, "draw", None)  # calling it would raise
    assert_same(evaluate(load_params(run["params"])), run["result"])


def test_committed_teacher_results_stand_for_the_same_figures(run: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    file, params_file = run["folder"] / "teacher.json", run["folder"] / "p.yaml"
    params_file.write_text(json.dumps(run["params"]))  # JSON is YAML
    assert main(["--params", str(params_file), "--teacher-only", "--out", str(file)]) == 0
    content = json.loads(file.read_text())
    assert content["provenance"]["command"] and content["conditions"]["num_images"] == N
    monkeypatch.setattr(Sampler, "draw", None)
    result = evaluate(with_evaluation(run, teacher_results=str(file)))
    assert "are read from" in result.notes[0]
    assert_same(result, run["result"])


def test_teacher_results_of_other_conditions_are_not_read(run: dict) -> None:
    file = run["folder"] / "other.json"
    conditions = {"weights": "0" * 64}
    file.write_text(json.dumps({"format": "alter-teacher-results/1", "conditions": conditions, "metrics": []}))
    result = evaluate(with_evaluation(run, teacher_results=str(file)))
    assert "weights" in result.notes[0] and "measured anew" in result.notes[0]
    assert_same(result, run["result"])


def test_bad_input_is_one_line_and_exit_2(run: dict, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ParamsError, match="evaluation.num_images: 2001 is not at most 2000"):
        load_protocol(with_evaluation(run, num_images=2001))
    with pytest.raises(ParamsError, match="evaluation.teacher_results: no file nowhere.json"):
        evaluate(with_evaluation(run, teacher_results="nowhere.json"))
    assert main(["--params", str(write_params(run, "nameless")), "--set", "run.name=untrained"]) == 2
    assert capsys.readouterr().err.strip().endswith("untrained/alter: no pipeline there; train this run first")


def write_params(run: dict, name: str) -> Path:
    path = run["folder"] / f"{name}.yaml"
    path.write_text(json.dumps(run["params"]))
    return path


def test_no_picture_is_prompt_and_reference_at_once(run: dict) -> None:
    protocol = load_protocol(with_evaluation(run, num_images=2000))
    assert len(protocol.prompts) == len(protocol.real) == 2000 and len(protocol.reference) == 3132 - 2000
    real, reference = ({picture.tobytes() for picture in images} for images in (protocol.real, protocol.reference))
    assert len(real & reference) <= 5  # a few emoji are drawn alike
    few = load_protocol(with_evaluation(run, num_images=100))
    assert few.prompts == protocol.prompts[:100] and few.digest() != protocol.digest()


def test_the_papers_numbers_agree_with_each_other() -> None:
    table, second = paper_table("1"), paper_table("2")
    for method, steps in table.index:
        if match := re.fullmatch(r"ALTER (0\.\d+)", method):
            whole, ratio = table.loc[("SDv2.1", 20), "MACs G/step"], float(match[1])
            assert table.loc[(method, steps), "MACs G/step"] == pytest.approx(ratio * whole, rel=1e-4)
    per_step = second.loc[("SDv2.1", 50), "MACs T/image"] / 50
    assert second.loc[("ALTER 0.65", 20), "MACs T/image"] == pytest.approx(0.65 * 20 * per_step, abs=0.005)
    assert second.loc[("ALTER 0.65", 15), "MACs T/image"] == pytest.approx(0.65 * 15 * per_step, abs=0.005)
    for number, table in PAPER.items():
        assert all(len(row) == 2 + len(table.columns) for row in table.rows), number
    shared = paper_table("3").loc[("ALTER 0.65", 20)]  # the same row stands in Tables 1 and 3
    assert (shared == paper_table("1").loc[("ALTER 0.65", 20)][shared.index]).all()


def as_printed(result: EvaluationResult) -> EvaluationResult:
    """The figures at 3 and 4 steps as those of 20 and 50, at a ratio within 0.025 of the paper's 0.65."""
    steps, ratio = {3: 20, 4: 50}, {"macs_ratio": 0.64}
    metrics = tuple(
        replace(each, steps=steps.get(each.steps, each.steps), value=ratio.get(each.name, each.value))
        for each in result.metrics
    )
    return replace(result, metrics=metrics)


@pytest.mark.parametrize("number", ["1", "2", "8"])
def test_ours_stands_beside_the_papers(run: dict, number: str) -> None:
    result = as_printed(run["result"])
    frame = beside_paper(number, result)
    assert list(frame.columns.get_level_values(0).unique()) == ["paper", "ours (t)"]
    row = frame.loc[("ALTER 0.65", 20)]
    if number == "2":  # the teacher's 4 steps stand for 50 here, and 3 for 20: 5 calls and 4
        assert frame.loc[("SDv2.1", 20), ("ours (t)", "MACs teacher@50 / this")] == pytest.approx(5 / 4)
        assert row[("ours (t)", "MACs teacher@50 / this")] > 5 / 4
    assert row["paper"].notna().all() and row["ours (t)"].notna().all()
    assert not any(column == "FID" or column.startswith("CLIP") for column in frame["ours (t)"].columns)
    assert (
        np.isnan(frame["ours (t)"].loc[[index for index in frame.index if "APTP" in index[0] or "DiP" in index[0]]])
        .all()
        .all()
    )


@pytest.mark.parametrize("number", ["1", "2", "8"])
def test_a_table_says_of_each_figure_why_it_is_not_there(run: dict, number: str) -> None:
    result = as_printed(run["result"])
    text = printed(number, result)
    measured = text.loc[("ALTER 0.65", 20), "ours (t)"]
    assert not measured.str.contains("[a-z]").any()  # figures alone
    cells = text["ours (t)"].drop(index=[("ALTER 0.65", 20)])
    assert (cells != "").all().all()
    said = {"1": "not in evaluation.baselines", "2": "15 steps were not drawn", "8": "cited, not run here"}
    assert cells.isin([said[number]]).any().any()
    assert (text["paper"].loc[("ALTER 0.65", 20)] != "").all()
    shown = [part.data if isinstance(part, Markdown) else part.to_html() for part in paper_comparison(result)]
    assert shown[0].startswith("Table 1") and len(shown) == 8 and "cited, not run here" in shown[1]
