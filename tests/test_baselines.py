"""Plans without a hypernetwork: which layers go, at which ratio; training under them."""

from dataclasses import replace

import pytest
import torch
from tiny_dit_pipeline import tiny_dit_pipeline
from tiny_sd_pipeline import tiny_pipeline
from tiny_training import RandomBatches, tiny_params

from alter_lib import ExpertPlan, ParamsError, PlanError, baselines, load_backbone
from alter_lib.backbones import wrap
from alter_lib.data.latents import Batch
from alter_lib.params import Loss
from alter_lib.plan import CostTable
from alter_lib.training.objective import Objective
from alter_lib.training.trainer import Trainer

COSTS = CostTable(layers=(30, 10, 20, 40), fixed=100, convention="linear+conv", resolution=(8, 8))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd")
    tiny_pipeline().save_pretrained(folder)
    return load_backbone(str(folder), device="cpu")


def test_layers_leave_in_order_until_the_target_is_met():
    """Of 200 MACs, 0.75 are 150: 40 may go, then 10 more, and nothing else fits."""
    assert baselines.drop_in_order(COSTS, [3, 0, 1, 2], 0.75) == [True, False, True, False]
    assert baselines.drop_in_order(COSTS, [0, 2, 3, 1], 0.75) == [False, True, False, True]


def test_equal_intervals_cover_all_timesteps_in_order():
    assert baselines.equal_intervals(10, 4).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]


@pytest.mark.parametrize("name", sorted({*baselines.FIXED} - {"unpruned"}))
@pytest.mark.parametrize("denominator", ["total", "prunable"])
def test_every_fixed_baseline_meets_its_budget(backbone, name, denominator):
    extra = {"seed": 3} if name == "random" else {}
    plan = baselines.FIXED[name](backbone, 0.65, denominator, **extra)
    assert plan.num_experts == 1 and plan.cost.denominator == denominator
    assert plan.achieved_ratio == pytest.approx(0.65, rel=0.01)


def test_bk_sdm_drops_the_second_pairs_before_all_else(backbone):
    plan = baselines.bk_sdm_layers(backbone, 0.9, "total")
    dropped = {name for name, runs in zip(plan.layer_names, plan.masks[0].tolist(), strict=True) if not runs}
    assert dropped and all(name.endswith((".resnets.1", ".attentions.1")) for name in dropped)


def test_bk_sdm_needs_a_unet(tmp_path):
    tiny_dit_pipeline().save_pretrained(tmp_path)
    with pytest.raises(ParamsError, match="bk_sdm needs a UNet"):
        baselines.bk_sdm_layers(load_backbone(str(tmp_path), device="cpu"), 0.5, "prunable")


def test_a_sensitivity_is_the_change_of_the_prediction_without_the_layer(backbone):
    """Against a forward with the layer replaced by hand, sample by sample."""
    random = torch.Generator().manual_seed(0)
    shape = (4, backbone.denoiser.config.in_channels, *backbone.resolution)
    states = torch.randn(4, 5, backbone.denoiser.config.cross_attention_dim, generator=random)
    noise, latents = torch.randn(shape, generator=random), torch.randn(shape, generator=random)
    batch = Batch(latents, noise, states, torch.tensor([10, 400, 600, 990]))
    unet = backbone.denoiser.eval()
    objective = Objective(unet, unet, backbone.pipeline.scheduler.config, Loss())
    halves = [Batch(*(part[i::2] for part in (latents, noise, states, batch.timesteps))) for i in range(2)]
    errors = baselines.skipping_errors(backbone, objective, halves, 2)
    index = next(i for i, layer in enumerate(backbone.layers) if layer.name == "down_blocks.1.attentions.0")
    noised = objective.noise(batch)

    def predict() -> torch.Tensor:
        with torch.no_grad():
            calls = [(noised.x_t[i : i + 1], batch.timesteps[i], states[i : i + 1]) for i in range(4)]
            return torch.cat([unet(*call).sample for call in calls])

    whole, module = predict(), unet.down_blocks[1].attentions[0]
    module.forward = lambda hidden, *_, **__: (hidden,)
    change = (predict() - whole).square().mean((1, 2, 3))
    del module.forward
    torch.testing.assert_close(errors[:, index], change.view(2, 2).mean(1), rtol=1e-4, atol=1e-9)


def test_the_least_sensitive_layers_for_their_macs_go_first(backbone):
    macs = torch.tensor([float(layer.macs) for layer in backbone.layers])
    rank = torch.arange(1.0, len(macs) + 1)
    errors = torch.stack([rank, rank.flip(0)]) * macs
    plan = baselines.least_sensitive(backbone, errors, 0.8, "total")
    assert plan.routing[0] == 0 and plan.routing[-1] == 1
    assert not plan.masks[0, 0] and plan.masks[0, -1]
    assert plan.masks[1, 0] and not plan.masks[1, -1]


def test_under_a_latency_budget_the_slowest_of_equally_sensitive_layers_goes_first(backbone):
    slow, num_layers = 7, len(backbone.layers)
    layers = tuple(10 if i == slow else 1 for i in range(num_layers))
    table = CostTable(layers, 100 - sum(layers), "by hand", (8, 8), unit="latency", device="abacus")
    plan = baselines.least_sensitive(replace(backbone, latency=table), torch.ones(1, num_layers), 0.9, "total")
    assert (~plan.masks[0]).nonzero()[:, 0].tolist() == [slow]
    assert plan.achieved_ratio == pytest.approx(0.9) and plan.budget.unit == "latency"


def test_the_timesteps_of_the_sensitivities_are_spread_evenly_over_all_batches():
    batches = list(baselines.evenly_timed(RandomBatches(), 4, 1000, 10))
    assert len(batches) == 3 and all(len(batch.timesteps) == 4 for batch in batches)
    timesteps = torch.cat([batch.timesteps for batch in batches]).sort().values
    assert timesteps.tolist() == [0, 83, 166, 250, 333, 416, 500, 583, 666, 750, 833, 916]
    assert all(int(batch.timesteps.diff().min()) >= 249 for batch in batches)  # and over each batch


FIXED_PLAN = {"training__hypernetwork_steps": 0, "training__correct_ratio": True, "training__warmup_steps": 0}


def trainer_of(params):
    return Trainer(params, wrap(tiny_pipeline()), RandomBatches())


@pytest.mark.parametrize("name", baselines.PLANS)
def test_a_training_under_a_baseline_updates_the_backbone_alone_and_keeps_the_plan(tmp_path, monkeypatch, name):
    monkeypatch.setattr(baselines, "SAMPLES", 8)
    trainer = trainer_of(tiny_params(tmp_path, training__plan=name, hypernetwork__num_experts=2, **FIXED_PLAN))
    plan, weights = trainer.current_plan(), trainer.theta[0].detach().clone()
    ratio = 1 if name == "unpruned" else 0.65
    assert plan.achieved_ratio == pytest.approx(ratio, rel=0.01) and plan.target_ratio == ratio
    assert plan.num_experts == (2 if name.endswith("_intervals") else 1)
    row = trainer.step()
    assert row["phase"] == "backbone" and "L_H" not in row and row["ratio"] == plan.achieved_ratio
    assert not torch.equal(trainer.theta[0], weights) and trainer.current_plan() == plan


def test_random_layers_are_the_seed_s_own(backbone):
    one, same, other = (baselines.random_layers(backbone, 0.65, "total", seed).masks for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_plan_of_a_file_is_taken_as_it_is(tmp_path, backbone):
    """Three experts, made by hand, off any target: nothing is corrected."""
    masks = torch.ones(3, len(backbone.layers), dtype=torch.bool)
    masks[0, 1], masks[1, ::2] = False, False
    plan = ExpertPlan.for_backbone(backbone, masks, torch.arange(1000) * 3 // 1000)
    plan.save(tmp_path / "mine.json")
    params = tiny_params(tmp_path, training__plan=str(tmp_path / "mine.json"), **FIXED_PLAN)
    assert baselines.given_plan(params, backbone, None, None) == plan


@pytest.mark.parametrize("name", ["randm", "plan.json"])
def test_a_plan_that_is_neither_a_file_nor_a_baseline_is_one_line(tmp_path, backbone, name):
    params = tiny_params(tmp_path, training__plan=name, training__hypernetwork_steps=0)
    with pytest.raises(
        ParamsError, match=f"training.plan: '{name}' is not a plan.json, .* random, first, last"
    ) as error:
        baselines.given_plan(params, backbone, None, None)
    assert len(error.value.faults) == 1


def test_a_plan_of_another_backbone_is_one_line(tmp_path, backbone):
    plan = baselines.first_layers(backbone, 0.65, "total")
    replace(plan, architecture_hash="0" * 64).save(tmp_path)
    params = tiny_params(tmp_path, training__plan=str(tmp_path), training__hypernetwork_steps=0)
    with pytest.raises(PlanError, match="training.plan: .*architecture_hash: the plan is for"):
        baselines.given_plan(params, backbone, None, None)


def test_a_plan_leaves_no_hypernetwork_to_train(tmp_path):
    with pytest.raises(
        ParamsError, match="training.hypernetwork_steps: 8 is not 0: under plan random there is nothing"
    ):
        tiny_params(tmp_path, training__plan="random")
