"""Plans without a hypernetwork: which layers go, at which ratio."""

import pytest
import torch
from tiny_dit_pipeline import tiny_dit_pipeline
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import ParamsError, baselines, load_backbone
from alter_lib.data.latents import Batch
from alter_lib.objective import Objective
from alter_lib.params import Loss
from alter_lib.plan import CostTable

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


@pytest.mark.parametrize("name", baselines.FIXED)
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
    errors = baselines.skipping_errors(backbone, objective, batch, 2)
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
