"""A budget in latency: measured once a run, in the plan beside its MACs, steering ratio and correction."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_dit_pipeline import tiny_dit_pipeline
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import ExpertPlan, PlanError, apply_plan, doctor, load_params
from alter_lib.backbones import load_backbone, wrap
from alter_lib.backbones.latency import device_name, profile, read_table, with_latency
from alter_lib.hypernetwork import Decisions
from alter_lib.inference.model_card import model_card
from alter_lib.params import ParamsError
from alter_lib.plan.costs import CostTable
from alter_lib.training.trainer import Trainer

BACKBONE = wrap(tiny_pipeline())
N_L = len(BACKBONE.layers)


def in_latency(costs: tuple[int, ...] = tuple(range(1, N_L + 1)), fixed: int = 334) -> ExpertPlan:
    """Expert 0 runs the first half of the layers, expert 1 all. Nanoseconds by hand: 1..36, 334 for the rest."""
    table = CostTable(costs, fixed, "by hand", (8, 8), unit="latency", device="abacus")
    masks = torch.ones(2, N_L, dtype=torch.bool)
    masks[0, 17:] = False
    routing = (torch.arange(1000) >= 500).long()
    return ExpertPlan.for_backbone(replace(BACKBONE, latency=table), masks, routing, target_ratio=0.8)


@pytest.mark.parametrize("pipeline", [tiny_pipeline, tiny_dit_pipeline])
def test_a_profile_has_a_time_for_each_layer_and_adds_up_to_the_network(pipeline) -> None:
    backbone = wrap(pipeline())
    table = profile(backbone, batch_size=2, repeats=3)
    assert len(table.layers) == len(backbone.layers) and min(table.layers) > 1000  # none takes less than a microsecond
    assert table.unit == "latency" and table.device == device_name(torch.device("cpu"))
    assert "batch 2, float32, eager" in table.convention and table.resolution == backbone.resolution
    assert not [m for layer in backbone.layers for m in layer.module._forward_pre_hooks]


def test_larger_layers_take_longer() -> None:
    """At 8 x 8 latents a transformer of SD2.1's layout takes longer than a residual layer of the same stage."""
    table = profile(BACKBONE, batch_size=8, repeats=7)
    seconds = {layer.name: cost for layer, cost in zip(BACKBONE.layers, table.layers, strict=True)}
    assert seconds["down_blocks.0.attentions.0"] > seconds["down_blocks.0.resnets.0"]


def test_the_budget_is_in_latency_and_macs_stay_macs() -> None:
    plan = in_latency()
    # expert 0 runs 1 + ... + 17 = 153 of 666 ns, expert 1 all 666; the fixed part is 334 of 1000
    assert plan.achieved_ratio == pytest.approx(((334 + 153) / 1000 + 1) / 2)
    assert plan.budget is plan.latency and plan.cost == CostTable.of(BACKBONE)
    macs = [layer.macs for layer in BACKBONE.layers]
    share = (BACKBONE.fixed_macs + sum(macs[:17])) / BACKBONE.total_macs
    assert plan.macs_ratio() == pytest.approx((share + 1) / 2) != plan.achieved_ratio
    corrected = plan.corrected(0.7)
    assert corrected.achieved_ratio == pytest.approx(0.7, rel=0.0101)


def test_plan_json_records_both(tmp_path: Path) -> None:
    plan = in_latency()
    plan.save(tmp_path)
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["cost"]["unit"] == "macs" and content["latency"]["unit"] == "ns"
    assert content["latency"]["device"] == "abacus" and content["latency"]["layers"][:3] == [1, 2, 3]
    assert content["achieved_ratio"] == plan.achieved_ratio
    loaded = ExpertPlan.load(tmp_path)
    assert loaded == plan and loaded.latency == plan.latency
    content["latency"]["layers"][0] += 50
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match="achieved_ratio: .* but masks, routing and costs give"):
        ExpertPlan.load(tmp_path)
    content["latency"]["layers"].pop()
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match="layers: 35 costs for 36 layers"):
        ExpertPlan.load(tmp_path)


def test_a_plan_in_macs_says_nothing_of_latency() -> None:
    masks, routing = torch.ones(1, N_L, dtype=torch.bool), torch.zeros(1000, dtype=torch.long)
    content = ExpertPlan.for_backbone(BACKBONE, masks, routing).to_dict()
    assert not {"latency", "dropped_layers"} & set(content)


def test_doctor_prints_both_ratios() -> None:
    plan = in_latency()
    apply_plan(BACKBONE.pipeline, plan)
    found = doctor(BACKBONE.pipeline, steps=4, measure=False)  # 751, 501, 501, 251, 1
    assert found.latency_ratio == pytest.approx((3 + 2 * 0.487) / 5)
    assert f"by the plan's table: {found.latency_ratio:.2%}" in str(found)


def latency_params(folder: Path) -> object:
    return load_params("params/smoke.yaml", {"cost.unit": "latency", "cost.batch_size": 2, "run.out": str(folder)})


def test_a_run_measures_once_and_keeps_its_table(tmp_path: Path) -> None:
    params = latency_params(tmp_path)
    first = with_latency(BACKBONE, params)
    again = with_latency(BACKBONE, params)
    assert first.latency == again.latency == read_table(params.run_folder / "latency.json")
    assert "batch 2" in first.latency.convention
    plan = ExpertPlan.for_backbone(first, torch.ones(1, N_L, dtype=torch.bool), torch.zeros(1000, dtype=torch.long),
                                   denominator="prunable")  # fmt: skip
    assert plan.latency == replace(first.latency, denominator="prunable")
    assert with_latency(BACKBONE, load_params("params/smoke.yaml")) is BACKBONE


def test_another_device_or_none_is_refused(tmp_path: Path) -> None:
    params = latency_params(tmp_path)
    with_latency(BACKBONE, params)
    path = params.run_folder / "latency.json"
    path.write_text(path.read_text().replace(device_name(torch.device("cpu")), "another"))
    with pytest.raises(ParamsError, match="measured on another, this is cpu, 1 threads"):
        with_latency(BACKBONE, params)
    with pytest.raises(ParamsError, match="cost.unit: latency is measured on a device that runs"):
        with_latency(load_backbone("sd21", "random", device="meta"), params)


def test_training_counts_its_ratio_in_latency(tmp_path: Path) -> None:
    """S(m) of the trainer, its plan and its history are of the table that the run measured."""
    tiny_pipeline().save_pretrained(tmp_path / "pipeline")
    params = load_params("params/smoke.yaml", {
        "cost.unit": "latency", "run.out": str(tmp_path), "backbone.id": str(tmp_path / "pipeline"), "data.limit": 8,
        "training.batch_size": 4, "backbone.device": "cpu",
    })  # fmt: skip
    trainer = Trainer(params)
    table = read_table(params.run_folder / "latency.json")
    masks = (torch.arange(len(table.layers)) % 2 == 0).float()
    uniform = Decisions(masks.expand(2, -1), torch.eye(2)[[0] * 1000])
    on = sum(table.layers[::2]) + table.fixed
    assert trainer.active(uniform).item() == pytest.approx(on / table.total, rel=1e-5)
    assert trainer.current_plan().latency == table
    assert trainer.step()["ratio"] == pytest.approx(trainer.current_plan().achieved_ratio)


def test_the_model_card_names_the_budget() -> None:
    plan = in_latency()
    card = model_card(BACKBONE.pipeline, plan, "x")
    assert f"| active latency, the budget | {plan.achieved_ratio:.2%}, target 80.00% (abacus, by hand) |" in card
    assert f"| active MACs | {plan.macs_ratio():.2%} of the whole network" in card and "(target" not in card
