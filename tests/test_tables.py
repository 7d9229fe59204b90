"""The tables of the notebooks, by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from test_plots import LAYERS, PLAN, evaluation_result
from tiny_sd_pipeline import tiny_pipeline
from torch import nn

from alter_lib import tables
from alter_lib.backbones import wrap
from alter_lib.hypernetwork import Hypernetwork
from alter_lib.plan import CostTable, ExpertPlan


def test_layer_table_adds_up() -> None:
    backbone = wrap(tiny_pipeline())
    table = tables.layer_table(backbone)
    assert list(table.index) == [layer.name for layer in backbone.layers]
    assert table["% of the network"].sum() == pytest.approx(100 * (1 - backbone.fixed_macs / backbone.total_macs))


def test_hypernetwork_parameters_are_those_of_tables_5_and_6() -> None:
    table = tables.hypernetwork_parameters(Hypernetwork(10, 34, 1280))["trainable parameters"]
    generator, router = table["generator (Table 5)"], table["router (Table 6)"]
    assert generator["Z, frozen"] == 0
    assert generator["all"] == 64 * 256 + 256 + 2 * 256 + 256 == generator.drop("all").sum()
    assert router["all"] == 1280 * 64 + 64 + 2 * 64 + 64 * 10 == router.drop("all").sum()


def test_expert_table() -> None:
    table = tables.expert_table(PLAN)
    np.testing.assert_allclose(table["% of the timesteps"], [400 / 6, 200 / 6, 0])
    assert list(table["layers of 4"]) == [3, 1, 4]
    np.testing.assert_allclose(table["% of the MACs (total)"], [85, 55, 100])
    assert list(table["layers from the nearest mask"]) == [1, 2, 1]


def test_sampler_table() -> None:
    class Pipeline:
        scheduler = PNDMScheduler(num_train_timesteps=1000, skip_prk_steps=True)

    masks = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    routing = (torch.arange(1000) >= 500).long()  # 100 % of the MACs below t = 500, 55 % from there on
    plan = ExpertPlan(masks, routing, LAYERS, CostTable((10, 20, 30, 40), 100, "linear+conv", (8, 8)), "UNet", "hash")
    table = tables.sampler_table(Pipeline(), plan, ["PNDMScheduler", "DDIMScheduler"], 10)
    assert list(table.calls) == [11, 10]  # PNDM calls the second timestep twice
    assert list(table.experts) == [2, 2] and list(table.switches) == [1, 1]
    assert DDIMScheduler().config.num_train_timesteps == 1000
    np.testing.assert_allclose(table["active MACs, %"], [(5 * 100 + 6 * 55) / 11, (5 * 100 + 5 * 55) / 10])


def test_quality_table_shows_every_figure(tmp_path: Path) -> None:
    result = evaluation_result(tmp_path)
    table = tables.quality_table(result)
    assert table.loc["fid_alexnet", ("alter", 20)] == "20 [19, 22]"
    assert table.loc["fid_alexnet", ("real", "")] == "1 [0.9, 1.1]"
    assert (table != "").to_numpy().sum() == len(result.metrics)


def test_artefact_sizes(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "weights.safetensors").write_bytes(bytes(2_000_000))
    PLAN.save(tmp_path)
    up = nn.ModuleDict({"attentions": nn.ModuleList([nn.Linear(1, 1)] * 3)})
    denoiser = nn.ModuleDict({
        "down_blocks": nn.ModuleList([nn.ModuleDict({"resnets": nn.ModuleList([nn.Linear(3, 1)]),
                                                     "attentions": nn.ModuleList([nn.Linear(1, 1)])})]),
        "mid_block": nn.ModuleDict({"resnets": nn.ModuleList([nn.Linear(1, 1)])}),
        "up_blocks": nn.ModuleList([nn.Identity(), up]),
    })  # fmt: skip
    sizes = tables.artefact_sizes(tmp_path, PLAN, denoiser)["size"]
    assert sizes["unet/weights.safetensors"] == 2.0 and sizes["plan.json"] < 0.01
    assert sizes["layers that all 2 experts in use run"] == pytest.approx(100 * 4 / 10)
    assert sizes["layers that no expert in use runs"] == pytest.approx(100 * 2 / 10)
