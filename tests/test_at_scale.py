"""Evaluation at scale from prompts to metrics.json, on a tiny random pipeline and a tiny real CLIP in the places of the
large ones; what is missing is said and skipped."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_evaluation import plan_for
from tiny_dit_pipeline import tiny_dit_pipeline
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import plots
from alter_lib.backbones.macs import LINEAR_CONV, WITH_ATTENTION
from alter_lib.evaluation import EvaluationResult, comparable_tables, evaluate, generate, hpsv2, inception
from alter_lib.evaluation.__main__ import main
from alter_lib.evaluation.clip import CMMD_MODEL, Clip, Cmmd
from alter_lib.evaluation.generation import Sampler, make_scheduler
from alter_lib.evaluation.our_tables import printed
from alter_lib.evaluation.prompts import load_prompts
from alter_lib.inference import save_pipeline
from alter_lib.params import ROOT, ParamsError, load_params
from alter_lib.plan import ExpertPlan

PROMPTS = ["red apple", "ghost", "pizza", "house"]
METRICS = ["fid", "fid_legacy_pytorch", "kid", "clip_score", "cmmd", "fid_alexnet", "image_reward", "hpsv2"]


def put_clip(folder: Path) -> None:
    """The repository's dual encoder as a CLIP checkpoint."""
    shutil.copytree(ROOT / "assets" / "dual_encoder", folder)
    for file in (ROOT / "assets" / "tiny_sd" / "tokenizer").iterdir():
        shutil.copy(file, folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("scale")
    tiny_pipeline().save_pretrained(folder / "teacher")
    student = tiny_pipeline(seed=1)
    save_pipeline(student, plan_for(student), folder / "t" / "alter")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    (folder / "real").mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (9, 20, 30, 3), dtype=np.uint8)):
        Image.fromarray(image).save(folder / "real" / f"{i}.png")
    for name in ("tiny-clip", CMMD_MODEL.split("/")[1]):
        put_clip(folder / "weights" / name)
    params = {
        "run": {"name": "t", "out": str(folder)},
        "backbone": {"id": str(folder / "teacher"), "device": "cpu"},
        "training": {"steps": 1, "hypernetwork_steps": 1, "batch_size": 1, "learning_rate": 1e-4, "warmup_steps": 0,
                     "hypernetwork_learning_rate": 1e-4},
        "sampling": {"guidance_scale": 3.0, "batch_size": 3},
        "evaluation": {"protocol": "prompts", "prompts": str(folder / "prompts.txt"), "reference": str(folder / "real"),
                       "num_images": 8, "images_per_prompt": 2, "steps": [2], "teacher_steps": [3], "bootstrap": 40,
                       "metrics": METRICS, "weights": str(folder / "weights"), "clip_model": "openai/tiny-clip",
                       "resolution": 40, "image_format": "png", "baselines": ["bk_sdm_v2_base"]},
    }  # fmt: skip
    return {"params": params, "folder": folder, "result": evaluate(load_params(params))}


def changed(run: dict, **values):
    return load_params(run["params"], {f"evaluation.{key}": value for key, value in values.items()})


def test_what_is_there_is_measured_with_all_that_it_depends_on(run: dict) -> None:
    content = json.loads((run["folder"] / "t" / "metrics.json").read_text())
    found = {(m["method"], m["steps"], m["name"]) for m in content["metrics"]}
    for method, steps in (("teacher", 3), ("teacher", 2), ("alter", 2)):
        assert {(method, steps, name) for name in ("clip_score", "cmmd", "fid_alexnet", "total_macs")} <= found
    for method in ("teacher", "alter"):
        assert {(method, 2, f"{name}_to_teacher") for name in ("psnr", "ssim", "lpips")} <= found
    assert ("bk_sdm_v2_base", 2, "total_macs") in found
    assert not {name for _, _, name in found} & {"fid", "fid_legacy_pytorch", "kid", "image_reward", "hpsv2"}
    for metric in content["metrics"]:
        if "macs" in metric["name"]:
            assert metric["macs_convention"] and metric["resolution"] == 32  # 8 x 8 latents
            assert (metric["sampler"], metric["guidance_scale"]) == ("PNDMScheduler", 3.0)
            continue
        assert (metric["n"], metric["seed"], metric["protocol"]) == (8, 0, "prompts")
        assert (metric["sampler"], metric["guidance_scale"], metric["resolution"]) == ("PNDMScheduler", 3.0, 32)
        assert metric["prompts"] == load_prompts(load_params(run["params"]).evaluation).digest
        assert metric["resize"].startswith("bicubic to 40 px")
        low, high = metric["interval"]
        assert low <= metric["value"] <= high
        if metric["name"] in ("cmmd", "fid_alexnet"):
            assert re.fullmatch(r".*real \(9 images, [0-9a-f]{16}\)", metric["reference"])
        if metric["name"] not in ("psnr_to_teacher", "ssim_to_teacher"):
            assert metric["extractor"] and len(metric["weights"]) == 16


def test_one_table_says_what_is_missing_and_where_it_goes(run: dict, capsys: pytest.CaptureFixture) -> None:
    evaluate(load_params(run["params"]))
    table, weights = capsys.readouterr().out, run["params"]["evaluation"]["weights"]
    frame = run["result"].missing_frame()
    assert table.strip() == frame.to_string(index=False).strip()
    assert table.splitlines()[0].split() == ["needed", "for", "put", "it", "at", "from"]
    by_figure = {name: row for _, row in frame.iterrows() for name in row["for"].split(", ")}
    assert {"fid", "kid", "fid_legacy_pytorch", "image_reward", "hpsv2", "bk_sdm_v2_base"} <= set(by_figure)
    assert not {"clip_score", "cmmd", "fid_alexnet"} & set(by_figure)
    assert by_figure["bk_sdm_v2_base"]["put it at"] == f"{weights}/bk-sdm-v2-base/"
    assert by_figure["image_reward"]["put it at"] == "evaluation.preference_python"
    assert frame.set_index("needed").loc[inception.FILE, "for"] == "fid, kid, fid_legacy_pytorch"  # one file for both
    assert EvaluationResult.load(run["folder"] / "t").missing == run["result"].missing


def test_scores_are_those_of_the_extractors(run: dict) -> None:
    """CLIP score by the mean cosine of embeddings; CMMD by a direct double sum; both at the metrics' resolution."""
    params, result = load_params(run["params"]), run["result"]
    (home,) = (run["folder"] / "t" / "evaluation" / "prompts").glob("alter-2-*")
    images = [Image.open(home / f"{i:06d}.png").resize((40, 40), Image.BICUBIC) for i in range(8)]
    images = np.stack([np.asarray(image) for image in images])
    clip, cmmd = Clip(params.evaluation, "cpu"), Cmmd(params.evaluation, "cpu")
    texts = clip.texts([prompt for prompt in PROMPTS for _ in range(2)])
    cosines = (clip(images)["image"].astype(float) * texts).sum(1)
    assert result.value("clip_score", "alter", 2) == pytest.approx(100 * cosines.mean(), rel=1e-5)
    files = sorted((run["folder"] / "real").iterdir())
    real = np.stack([np.asarray(Image.open(file).resize((40, 40), Image.BICUBIC)) for file in files])
    x, y = (cmmd(each)["image"].astype(float) for each in (images, real))
    k = [np.exp(-np.square(a[:, None] - b[None]).sum(-1) / 200).mean() for a, b in ((x, x), (y, y), (x, y))]
    assert result.value("cmmd", "alter", 2) == pytest.approx(1000 * (k[0] + k[1] - 2 * k[2]), rel=1e-4, abs=1e-4)


def test_a_rerun_draws_nothing_and_other_conditions_keep_their_images(run: dict, monkeypatch) -> None:
    monkeypatch.setattr(Sampler, "draw", None)  # calling it would raise
    again = evaluate(load_params(run["params"]))
    for metric, before in zip(again.metrics, run["result"].metrics, strict=True):
        assert metric.value == pytest.approx(before.value, rel=1e-3, abs=1e-4)


def test_images_of_the_command_are_those_of_the_evaluation(run: dict, tmp_path: Path, capsys, monkeypatch) -> None:
    params = tmp_path / "p.yaml"
    params.write_text(json.dumps(run["params"]))
    monkeypatch.setattr(Sampler, "draw", None)
    command = ["--params", str(params), "--method", "alter", "--steps", "2", "--adm-npz", str(tmp_path / "s.npz")]
    assert generate.main(command) == 0
    assert "evaluator.py" in capsys.readouterr().out
    with np.load(tmp_path / "s.npz") as arrays:
        assert arrays["arr_0"].shape == (8, 32, 32, 3)
    assert generate.main(["--params", str(params), "--method", "nobody"]) == 2
    assert "--method: nobody is not one of teacher, alter, bk_sdm_v2_base" in capsys.readouterr().err


def test_a_released_baseline_that_is_there_is_measured(run: dict, tmp_path: Path, capsys, monkeypatch) -> None:
    """Under its own sampler's name; the command without --method draws it and says of another that it isn't there."""
    slim = tiny_pipeline(seed=2)
    slim.scheduler = make_scheduler(slim, "DPMSolverMultistepScheduler")
    slim.save_pretrained(tmp_path / "bk-sdm-v2-small")
    both = {"weights": str(tmp_path), "baselines": ["bk_sdm_v2_base", "bk_sdm_v2_small"], "metrics": ["fid_alexnet"]}
    params = changed(run, **both)
    (tmp_path / "p.yaml").write_text(json.dumps(params.dump()))
    assert generate.main(["--params", str(tmp_path / "p.yaml")]) == 0
    out = capsys.readouterr()
    assert "bk_sdm_v2_base: not drawn, needs nota-ai/bk-sdm-v2-base at" in out.err and "bk_sdm_v2_small-2-" in out.out
    monkeypatch.setattr(Sampler, "draw", None)
    result = evaluate(params)
    figure = result.metric("fid_alexnet", "bk_sdm_v2_small", 2)
    assert figure.sampler == "DPMSolverMultistepScheduler" and figure.value != result.value("fid_alexnet", "teacher", 2)
    assert result.metric("psnr_to_teacher", "bk_sdm_v2_small").against == "teacher@3"
    assert printed("1", result).loc[("BK-SDM-v2 Base", 25), ("ours (t)", "latency s")].startswith("needs nota-ai/")
    evaluate(load_params(run["params"]))  # as it was, for the other tests


def test_figures_of_another_protocol_stay_and_the_tables_say_why_cells_are_empty(run: dict) -> None:
    captions = run["folder"] / "captions_val2014.json"
    captions.write_text(json.dumps({"annotations": [{"image_id": i, "caption": PROMPTS[i]} for i in range(4)]}))
    overrides = {"protocol": "coco2014", "prompts": str(captions), "num_images": 4, "images_per_prompt": 1,
                 "reference": None, "metrics": ["clip_score", "cmmd"], "baselines": []}  # fmt: skip
    result = evaluate(changed(run, **overrides))
    protocols = {metric.protocol for metric in result.metrics if metric.name == "clip_score"}
    assert protocols == {"coco2014", "prompts"}
    row = next(name for name, steps in printed("1", result).index if name.startswith("ALTER") and steps == 2)
    cells = printed("1", result).loc[(row, 2), "ours (t)"]
    assert re.fullmatch(r"-?[\d.]+ \[-?[\d.]+, -?[\d.]+\]", cells["CLIP (COCO)"])
    assert cells["CMMD (COCO)"] == "needs real images" and cells["FID (CC3M)"] == "protocol cc3m was not run"
    cited = printed("1", result).loc[("APTP 0.66", 25)]
    assert set(cited["ours (t)"]) == {"cited, not run here"} and cited["paper"]["FID (COCO)"] == "39.12"
    evaluate(load_params(run["params"]))  # as it was, for the other tests


def test_sd21_without_anything_says_what_it_needs_and_counts_macs(run: dict, capsys: pytest.CaptureFixture) -> None:
    overrides = {
        "run.out": str(run["folder"]), "run.name": "t", "backbone.id": str(run["folder"] / "teacher"),
        "backbone.device": "cpu", "cost.resolution": None, "evaluation.steps": [2], "evaluation.teacher_steps": [3],
        "evaluation.latency_batch_sizes": [], "evaluation.prompts": "data/nowhere/captions_val2017.json",
        "evaluation.reference": "data/nowhere/val2017", "evaluation.weights": "data/nowhere/weights",
    }  # fmt: skip
    result = evaluate(load_params("params/sd21.yaml", overrides))
    table = capsys.readouterr().out
    for needed, place in (
        ("captions of coco2017", "data/nowhere/captions_val2017.json"),
        ("real images", "data/nowhere/val2017"),
        (inception.FILE, f"data/nowhere/weights/{inception.FILE}"),
        (hpsv2.FILE, f"data/nowhere/weights/{hpsv2.FILE}"),
        ("openai/clip-vit-base-patch32", "data/nowhere/weights/clip-vit-base-patch32/"),
        (CMMD_MODEL, "data/nowhere/weights/clip-vit-large-patch14-336/"),
        ("nota-ai/bk-sdm-v2-base", "data/nowhere/weights/bk-sdm-v2-base/"),
        ("an environment with image-reward", "evaluation.preference_python"),
        ("ImageReward.pt, med_config.json", "data/nowhere/weights/image-reward/"),
    ):
        assert re.search(rf"{re.escape(needed)} .*{re.escape(place)}", table), needed
    names = {metric.name for metric in result.metrics if metric.protocol in (None, "coco2017")}
    assert {"total_macs", "macs_per_call", "macs_ratio", "macs_ratio_visited"} == names and result.grid.prompts == ()
    for figure in (plots.side_by_side(result, None), plots.quality_against_macs(result)[0].figure):
        assert figure.axes[0].texts[0].get_text() == "not measured: see what is missing"
    evaluate(load_params(run["params"]))  # as it was


def test_figures_of_images_at_scale(run: dict) -> None:
    result = run["result"]
    assert list(result.grid.images) == ["teacher@2", "alter@2"] and result.grid.prompts == tuple(PROMPTS)
    ax = plots.quality_against_macs(result)
    assert [each.get_ylabel() for each in ax] == ["FID-AlexNet (lower is better)", "CLIP score (higher is better)"]
    plan = ExpertPlan.load(run["folder"] / "t" / "alter")
    assert [each.get_title("left") for each in plots.side_by_side(result, plan).axes[:2]] == [
        "teacher, all layers, 2 steps", "ALTER, 2 steps"
    ]  # fmt: skip


def test_class_labels_of_imagenet(run: dict, tmp_path: Path) -> None:
    """DiT: balanced labels, an npz of the ADM evaluator as reference, Table 4, no captions anywhere."""
    tiny_dit_pipeline().save_pretrained(tmp_path / "teacher")
    student = tiny_dit_pipeline(seed=1)
    save_pipeline(student, plan_for(student), tmp_path / "t" / "alter")
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "reference.npz", arr_0=images)
    evaluation = {"protocol": "imagenet", "prompts": None, "reference": str(tmp_path / "reference.npz"),
                  "num_images": 6, "images_per_prompt": 1, "metrics": ["fid", "inception_score", "fid_alexnet"],
                  "baselines": [], "resolution": None, "image_format": "npz"}  # fmt: skip
    params = run["params"] | {
        "run": {"name": "t", "out": str(tmp_path)},
        "backbone": {"id": str(tmp_path / "teacher"), "device": "cpu"},
        "evaluation": run["params"]["evaluation"] | evaluation,
    }
    result = evaluate(load_params(params))
    assert result.grid.prompts == tuple("012345")
    measured = {(m.method, m.steps) for m in result.metrics if m.name == "fid_alexnet"}
    assert measured == {("teacher", 3), ("teacher", 2), ("alter", 2)}
    assert {m.macs_convention for m in result.metrics if m.name == "macs_per_call"} == {LINEAR_CONV, WITH_ATTENTION}
    (table,) = comparable_tables(result).values()
    cells = table.loc[("ALTER (14 of 28 on average)", 2), "ours (t)"]
    assert cells["FID"].startswith("needs ") and cells["MACs G/image"]
    macs = {(m.method, m.steps): m.value for m in result.metrics if m.name == "total_macs"}
    times = macs["teacher", 2] / macs["alter", 2]  # Table 4's speedup is at equal steps
    assert times > 1 and float(cells["MACs teacher, equal steps, / this"]) == pytest.approx(times, rel=1e-3)
    assert set(table.loc[("DyDiT (lambda 0.5)", 250), "ours (t)"]) == {"cited, not run here"}


def test_keys_without_a_part_are_refused(run: dict) -> None:
    for values, message in (
        ({"teacher_results": "x.json"}, "teacher_results: x.json holds figures of the embedded protocol; use null"),
        ({"prompts": None}, "prompts: null is not the file that protocol prompts takes its prompts from"),
        ({"num_images": 7}, r"num_images: 7 is not a multiple of images_per_prompt \(2\)"),
        ({"protocol": "imagenet"}, "needs prompts, imagenet has class labels"),
        (
            {"protocol": "embedded", "images_per_prompt": 1},
            "reference: .* has no part in the embedded protocol; use null",
        ),
    ):
        with pytest.raises(ParamsError, match=message):
            changed(run, **values)


def test_the_shell_prints_tables_and_refuses_a_teacher_s_file_at_scale(run: dict, tmp_path: Path, capsys) -> None:
    params = tmp_path / "p.yaml"
    params.write_text(json.dumps(run["params"]))
    assert main(["--params", str(params)]) == 0
    out = capsys.readouterr().out
    assert all(f"Table {number}" in out for number in "1278") and "not there, and so not measured:" in out
    assert main(["--params", str(params), "--teacher-only", "--out", str(tmp_path / "x.json")]) == 2
    assert "--teacher-only measures the embedded protocol alone" in capsys.readouterr().err
