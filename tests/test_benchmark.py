"""The benchmark runs end to end on tiny pipelines, times what it says, and holds its plans at their ratio."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_dit_pipeline import tiny_dit_pipeline
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import apply_plan, benchmark, load_backbone, remove_plan
from alter_lib.backbones import wrap
from alter_lib.backbones.timing import random_inputs
from alter_lib.benchmark import __main__ as command
from alter_lib.benchmark import speed
from alter_lib.benchmark.methods import (
    Bench,
    all_ones,
    bk_sdm,
    bk_sdm_config,
    deepcache,
    figures,
    half,
    methods,
    pruned,
    pyramid_attention,
    unpruned,
)
from alter_lib.inference.patching import patch_of
from alter_lib.params import load_params
from alter_lib.plan.costs import CostTable
from alter_lib.plan.schedules import visited_timesteps


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("benchmark")
    tiny_pipeline().save_pretrained(path / "pipeline")
    return path


def overrides(folder: Path) -> dict:
    return {"backbone.id": str(folder / "pipeline"), "backbone.device": "cpu", "run.out": str(folder),
            "data.limit": 8, "training.batch_size": 4, "sampling.batch_size": 2}  # fmt: skip


@pytest.mark.parametrize("ratio", [0.65, 0.5, 0.9])
def test_random_plans_are_seeded_and_at_their_ratio(ratio: float) -> None:
    backbone = wrap(tiny_pipeline())
    plans = [benchmark.random_plan(backbone, ratio, seed, num_experts=3) for seed in range(5)]
    for plan in plans:
        assert plan.cost.denominator == "total"
        for macs in plan.expert_macs():
            assert ratio <= macs / backbone.total_macs < ratio + 0.01
    assert plans[0] == benchmark.random_plan(backbone, ratio, 0, num_experts=3)
    assert len({str(plan.masks.tolist()) for plan in plans}) == 5
    assert plans[0].routing.bincount().tolist() == [334, 333, 333]


def test_a_random_plan_at_a_ratio_of_the_latency() -> None:
    backbone = wrap(tiny_pipeline())
    table = CostTable(tuple(range(1, 37)), 334, "by hand", (8, 8), unit="latency", device="abacus")
    plan = benchmark.random_plan(replace(backbone, latency=table), 0.65, 0)
    assert 0.65 <= plan.achieved_ratio < 0.66 and plan.budget is plan.latency


def test_spread_is_median_and_quartiles() -> None:
    assert benchmark.spread([5, 1, 2, 4, 3]) == {"median": 3, "q25": 2, "q75": 4}


def test_random_masks_keep_what_one_more_layer_would_break() -> None:
    costs = CostTable((50, 30, 20), 100, "linear+conv", (8, 8))  # of 200: 0.65 leaves room for 70
    for seed in range(10):
        mask = benchmark.random_mask(costs, 0.65, np.random.default_rng(seed))
        active = 100 + sum(c for c, m in zip(costs.layers, mask, strict=True) if m)
        assert active >= 130
        assert all(active - c < 130 for c, m in zip(costs.layers, mask, strict=True) if m)


def test_a_plan_that_skips_nearly_all_is_faster_and_comes_off() -> None:
    backbone = wrap(tiny_pipeline())
    plan = benchmark.random_plan(backbone, 0.0, 0)  # every prunable layer left out
    found = benchmark.time_forward(backbone, plan, [999, 1], batch_size=2, repeats=5)
    assert found["macs_ratio"] == pytest.approx(backbone.fixed_macs / backbone.total_macs)
    assert found["pruned_over_unpruned"]["median"] < 0.8
    assert patch_of(backbone.pipeline) is None


# methods


def bench(pipeline: object, steps: int = 4) -> Bench:
    backbone = wrap(pipeline)
    visited = visited_timesteps(pipeline.scheduler, steps)
    inputs = random_inputs(pipeline, backbone.resolution, 2)
    return Bench(backbone, benchmark.random_plan(backbone, 0.6, 1, num_experts=3), inputs, list(dict.fromkeys(visited)))


@torch.no_grad()
def test_copies_share_weights_and_run_their_method_alone() -> None:
    made = bench(tiny_pipeline())
    plain, unet = unpruned(made), made.backbone.denoiser
    expected = plain.calls[None]()[0]
    planned, ones = pruned(made, "ALTER"), all_ones(made)
    apply_plan(made.backbone.pipeline, made.plan)  # a pipeline that already runs under a plan has the same baseline
    assert torch.equal(unpruned(made).calls[None]()[0], expected)
    remove_plan(made.backbone.pipeline)
    assert torch.equal(plain.calls[None]()[0], expected) and patch_of(unet) is None
    assert torch.equal(ones.calls[0]()[0], made.call(unet, made.timesteps[-1])()[0])
    assert set(planned.calls) == {0, 1, 2} and not torch.equal(planned.calls[0]()[0], expected)
    twin = made.twin()
    assert all(a is b for a, b in zip(twin.parameters(), unet.parameters(), strict=True))
    assert all(a is not b for a, b in zip(made.twin(own_weights=True).parameters(), unet.parameters(), strict=True))


@torch.no_grad()
def test_deepcache_makes_a_full_call_in_three_and_the_others_run_less() -> None:
    made = bench(tiny_pipeline(), steps=7)
    for method, plan in ((deepcache(made), None), (deepcache(made, made.plan), made.plan)):
        visited = made.timesteps
        counts = method.count(visited)
        assert sum(counts.values()) == len(visited)
        assert sum(n for (_, full), n in counts.items() if full) == -(-len(visited) // 3)
        assert set(counts) <= set(method.calls)
        for call in method.calls.values():
            assert torch.isfinite(call()[1][0]).all()
        assert all((plan and plan.expert(visited[0]), full) in method.calls for full in (True, False))


@torch.no_grad()
def test_pyramid_attention_computes_attention_in_every_second_call() -> None:
    """A full call is the expert's own; the next one takes its attention from there."""
    made = bench(tiny_pipeline(), steps=4)
    method, planned = pyramid_attention(made), pruned(made, "ALTER")
    counts, expert = method.count(made.timesteps), made.plan.expert(made.timesteps[0])
    assert sum(n for (_, full), n in counts.items() if full) == -(-len(made.timesteps) // 2)
    assert sum(counts.values()) == len(made.timesteps) and set(counts) <= set(method.calls)
    assert torch.equal(method.calls[expert, True]()[1][0], planned.calls[expert]()[0])
    made.inputs[0].mul_(2)
    fresh = planned.calls[expert]()[0]
    assert not torch.equal(method.calls[expert, False]()[1][0], fresh)
    assert torch.equal(method.calls[expert, True]()[1][0], fresh)


@torch.no_grad()
def test_half_precision_leaves_the_others_in_float32() -> None:
    made = bench(tiny_pipeline())
    method, planned = half(made), pruned(made, "ALTER")
    for expert, call in method.calls.items():
        found, wanted = call()[0], planned.calls[expert]()[0]
        assert (found.dtype, wanted.dtype) == (torch.bfloat16, torch.float32)
        torch.testing.assert_close(found.float(), wanted, rtol=0.1, atol=0.1)


def test_bk_sdm_is_the_published_architecture() -> None:
    """Parameters of the UNets of BK-SDM-Base and -Small as published (arXiv 2305.15798): 0.58 and 0.49 billion."""
    from diffusers import UNet2DConditionModel

    config = load_backbone("sd21", "random", device="meta").denoiser.config
    sizes = []
    for small in (False, True):
        with torch.device("meta"):
            slim = UNet2DConditionModel.from_config(bk_sdm_config(config, small))
        sizes.append(round(sum(p.numel() for p in slim.parameters()) / 1e9, 2))
    assert sizes == [0.58, 0.49]


def test_bk_sdm_costs_less_than_the_unet_it_comes_from() -> None:
    made = bench(tiny_pipeline())
    base, small = (bk_sdm(made, each).macs([0]) for each in (False, True))
    assert 0.3 < small < base < 0.9
    with torch.no_grad():
        assert bk_sdm(made, True).calls[None]()[0].shape == made.inputs[0].shape


def test_figures_by_hand() -> None:
    """Two experts, one visited three times: each round's mean, over that round's unpruned call."""
    made = bench(tiny_pipeline())
    method = replace(unpruned(made, "m"), count=lambda visited: {0: 3, 1: 1}, macs=lambda visited: 0.5)
    seconds = {("m", 0): [2.0, 4.0, 6.0], ("m", 1): [2.0, 0.0, 2.0]}
    found = figures(method, [0] * 4, seconds, np.array([4.0, 3.0, 10.0]))
    assert found["seconds"]["median"] == 3.0  # of 2, 3, 5
    assert found["over_unpruned"]["median"] == 0.5  # of 1/2, 1, 1/2
    assert found["of_the_ideal"]["median"] == 1.0 and found["macs_ratio"] == 0.5


@pytest.mark.parametrize("pipeline", [tiny_pipeline, tiny_dit_pipeline])
def test_every_method_of_a_denoiser_has_the_calls_that_it_counts(pipeline) -> None:
    made = bench(pipeline())
    builders = methods(made, compiled=False)
    found, names = [build() for build in builders.values()], list(builders)
    assert [method.name for method in found] == names and names[:3] == ["unpruned", "all-ones plan", "ALTER"]
    assert ("BK-SDM-Base" in names) == ("ToMe 0.5" in names) == (pipeline is tiny_pipeline)
    for method in found:
        assert set(method.count(made.timesteps)) <= set(method.calls)


# the command


def test_pinned_trainers_sample_and_evaluate_the_given_plan(folder: Path) -> None:
    params = load_params("params/smoke.yaml", overrides(folder))
    for mode, trainer in benchmark.trainers(params, None).items():
        plan = benchmark.random_plan(trainer.backbone, params.loss.target_ratio, 0, 10)
        for _ in range(2):  # also after an update of the hypernetwork
            assert torch.equal(trainer.masks, plan.masks) and torch.equal(trainer.routing, plan.routing)
            sampled = trainer.net.sample(trainer.e_t, torch.Generator().manual_seed(0))
            agree = (sampled.masks.detach() == plan.masks).float().mean()
            assert agree > 0.98 and torch.equal(sampled.routing.argmax(1), plan.routing)
            assert trainer.params.training.execution == mode
            assert trainer.step()["phase"] == "joint"


def test_the_command_writes_what_it_prints(folder: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    workload = benchmark.Workload("tiny", str(folder / "pipeline"), (8, 8), (2,), "cpu", "float32", "pretrained",
                                  steps=(4, 2), compiled=())  # fmt: skip
    monkeypatch.setitem(benchmark.WORKLOADS, "tiny_sd", workload)
    out, values = folder / "out" / "bench.json", [f"{key}={value}" for key, value in overrides(folder).items()]
    arguments = ["--params", "params/smoke.yaml", "--set", *values, "--plans", "2", "--repeats", "2", "--out", str(out)]
    assert command.main([*arguments, "--workloads", "tiny_sd", "sd21_768"]) == 0
    result = json.loads(out.read_text())
    assert result["versions"]["torch"] == str(torch.__version__) and result["hardware"]["cpu"]
    assert len(result["forward"]["random"]["plans"]) == 2 and "learned" not in result["forward"]
    tiny, *gpu = result["workloads"]
    assert tiny["status"] == "measured" and len(tiny["random_plans"]["plans"]) == 2
    assert tiny["latency_budget"]["latency_ratio"] >= 0.65
    assert {(row["steps"], row["calls"]) for row in tiny["rows"]} == {(4, 5), (2, 3)}
    assert {row["denoiser_batch"] for row in tiny["rows"]} == {4}  # two images, guided
    if not torch.cuda.is_available():
        assert [case["batch_size"] for case in gpu] == [1, 4, 16]
        assert all(case["rows"] == [] and case["status"] == "not measured: no CUDA device" for case in gpu)
    for phase in ("joint", "backbone"):
        modes = result["training_step"][phase]
        assert set(modes) == {"sub_batch", "masked", "reference"}
        assert modes["reference"]["over_reference"] == {"median": 1, "q25": 1, "q75": 1}
        assert all(np.isfinite(mode["seconds"]["median"]) for mode in modes.values())
    printed = capsys.readouterr().out
    assert f"{modes['sub_batch']['over_reference']['median']:.3f}" in printed and "  ALTER, 4 steps: " in printed
    check_tables(result)


def check_tables(result: dict) -> None:
    """What notebook 07 shows of it."""
    rows = list(speed.measured([result]))
    unpruned_rows = [row for row in rows if row["method"] == "unpruned"]
    assert [row["speedup"] for row in unpruned_rows] == pytest.approx([1, 5 / 3])
    alter = next(row for row in rows if (row["method"], row["steps"]) == ("ALTER", 2))
    assert alter["ideal"] == pytest.approx(5 / (3 * alter["macs_ratio"]))
    assert alter["speedup"] == pytest.approx(5 / (3 * alter["over_unpruned"]["median"]))
    table = speed.method_table([result])
    assert ("tiny", 2, "ALTER") in table.index
    if not torch.cuda.is_available():
        assert ("sd21_768", 1, "not measured: no CUDA device") in table.index
        assert speed.paper_speedups([result])["ours, measured"].isna().all()
    plans = speed.plan_table([result])
    random, budget = result["workloads"][0]["random_plans"], result["workloads"][0]["latency_budget"]
    assert plans["time, share"].tolist() == pytest.approx(
        [random["median"], random["worst"], budget["pruned_over_unpruned"]["median"]]
    )
    assert plans["latency by table, share"].iloc[2] == budget["latency_ratio"]


def test_methods_can_be_chosen_by_name(folder: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    workload = benchmark.Workload("tiny", str(folder / "pipeline"), (8, 8), (2,), "cpu", "float32", "pretrained",
                                  guided=False, steps=(2,), compiled=())  # fmt: skip
    monkeypatch.setitem(benchmark.WORKLOADS, "tiny_sd", workload)
    arguments = ["--workloads", "tiny_sd", "--methods", "all-ones plan", "--plans", "0", "--repeats", "1"]
    assert command.main([*arguments, "--no-forward", "--no-training", "--set", f"run.out={folder}"]) == 0
    printed = [line.split(",")[0].strip() for line in capsys.readouterr().out.splitlines() if " steps: " in line]
    assert printed == ["unpruned", "all-ones plan"]


def test_a_workload_runs_on_another_device_where_that_is_asked_for(folder: Path, monkeypatch) -> None:
    workload = benchmark.Workload("tiny", str(folder / "pipeline"), (8, 8), (2,), "cuda", "float32", "pretrained",
                                  steps=(2,), compiled=())  # fmt: skip
    monkeypatch.setitem(benchmark.WORKLOADS, "sd21_768", workload)
    out = str(folder / "elsewhere.json")
    asked = ["--workloads", "sd21_768", "--device", "cpu", "--dtype", "bfloat16", "--methods", "ALTER", "--out", out]
    fast = ["--plans", "0", "--repeats", "1", "--no-forward", "--no-training"]
    assert command.main([*asked, *fast, "--set", f"run.out={folder}"]) == 0
    (case,) = json.loads(Path(out).read_text())["workloads"]
    assert (case["status"], case["device"], case["dtype"]) == ("measured", "cpu", "bfloat16") and len(case["rows"]) == 2


def test_a_missing_plan_is_one_line(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert command.main(["--params", "params/smoke.yaml", "--plan", str(folder / "nowhere")]) == 2
    assert "no such file" in capsys.readouterr().err
