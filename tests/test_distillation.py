"""L_outKD before and after fine-tuning, of a run folder on disk."""

import pytest
import torch
import yaml

from alter_lib import ExpertPlan, load_backbone, save_pipeline
from alter_lib.ablation_study.distillation import distillation_errors
from alter_lib.params import load_params

NUM_INTERVALS = 2


@pytest.fixture
def run(tmp_path):
    """A run of the smoke params that has changed nothing but skips layers in the first half of the timesteps."""
    params = load_params("params/smoke.yaml", {"run.out": str(tmp_path), "backbone.device": "cpu"})
    backbone = load_backbone(params.backbone, cost=params.cost)
    masks = torch.ones(2, len(backbone.layers), dtype=torch.bool)
    masks[0, ::2] = False
    plan = ExpertPlan.for_backbone(backbone, masks, torch.arange(1000) // 500, 0.65)
    params.run_folder.mkdir(parents=True)
    (params.run_folder / "params.yaml").write_text(yaml.safe_dump(params.dump()))
    save_pipeline(backbone.pipeline, plan, params.run_folder / "alter")
    return params.run_folder


def test_a_plan_costs_where_it_skips_and_untrained_weights_as_much_after_as_before(run):
    found = distillation_errors(run, NUM_INTERVALS, samples=8)
    assert found[["first_timestep", "last_timestep"]].values.tolist() == [[0, 499], [500, 999]]
    assert found.macs_ratio[0] < 1 and found.macs_ratio[1] == 1
    assert found.before[0] > 1e-4 and found[["before", "after"]].loc[1].max() < 1e-9
    assert found.after[0] == pytest.approx(found.before[0], rel=1e-5)
