"""The benchmark runs end to end on a tiny pipeline, times what it says, and holds its plans at their ratio."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import benchmark
from alter_lib.backbones import wrap
from alter_lib.params import load_params
from alter_lib.patching import patch_of
from alter_lib.plan import CostTable


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


def test_spread_is_median_and_quartiles() -> None:
    assert benchmark.spread([5, 1, 2, 4, 3]) == {"median": 3, "q25": 2, "q75": 4}


def test_a_plan_that_skips_nearly_all_is_faster_and_comes_off() -> None:
    backbone = wrap(tiny_pipeline())
    plan = benchmark.random_plan(backbone, 0.0, 0)  # every prunable layer left out
    found = benchmark.time_forward(backbone, plan, [999, 1], batch_size=2, repeats=5)
    assert found["macs_ratio"] == pytest.approx(backbone.fixed_macs / backbone.total_macs)
    assert found["pruned_over_unpruned"]["median"] < 0.8
    assert patch_of(backbone.pipeline) is None


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


def test_the_command_writes_what_it_prints(folder: Path, capsys: pytest.CaptureFixture) -> None:
    out, values = folder / "out" / "bench.json", [f"{key}={value}" for key, value in overrides(folder).items()]
    arguments = ["--params", "params/smoke.yaml", "--set", *values, "--plans", "2", "--repeats", "2", "--out", str(out)]
    assert benchmark.main(arguments) == 0
    result = json.loads(out.read_text())
    assert result["versions"]["torch"] == str(torch.__version__) and result["hardware"]["cpu"]
    assert len(result["forward"]["random"]["plans"]) == 2 and "learned" not in result["forward"]
    for phase in ("joint", "backbone"):
        modes = result["training_step"][phase]
        assert set(modes) == {"sub_batch", "masked", "reference"}
        assert modes["reference"]["over_reference"] == {"median": 1, "q25": 1, "q75": 1}
        assert all(np.isfinite(mode["seconds"]["median"]) for mode in modes.values())
    printed = capsys.readouterr().out
    assert f"{modes['sub_batch']['over_reference']['median']:.3f}" in printed
    missing = ["--params", "params/smoke.yaml", "--plan", str(folder / "nowhere")]
    assert benchmark.main(missing) == 2


def test_random_masks_keep_what_one_more_layer_would_break() -> None:
    costs = CostTable((50, 30, 20), 100, "linear+conv", (8, 8))  # of 200: 0.65 leaves room for 70
    for seed in range(10):
        mask = benchmark.random_mask(costs, 0.65, np.random.default_rng(seed))
        active = 100 + sum(c for c, m in zip(costs.layers, mask, strict=True) if m)
        assert active >= 130
        assert all(active - c < 130 for c, m in zip(costs.layers, mask, strict=True) if m)
