"""Prunable layers and MACs: facts of SD2.1 on the meta device, structure at small widths."""

import pytest
import torch
from tiny_sd_pipeline import tiny_pipeline

from alter_lib.backbones import architecture_hash, load_backbone, wrap


@pytest.fixture(scope="module")
def sd21():
    return load_backbone("sd21", "random", device="meta")


@pytest.mark.parametrize(
    "convention, size, gmacs",
    [
        ("linear+conv", 96, 760.5),
        ("linear+conv+attention", 96, 1074.6),
        ("linear+conv", 64, 339.1),
        ("linear+conv+attention", 64, 402.1),
    ],
)
def test_sd21_gmacs_by_both_conventions(sd21, convention, size, gmacs):
    backbone = wrap(sd21.pipeline, convention, (size, size))
    assert round(backbone.total_macs / 1e9, 1) == gmacs
    assert backbone.fixed_macs + sum(layer.macs for layer in backbone.layers) == backbone.total_macs


def test_sd21_has_865_9_m_parameters_and_34_prunable_layers(sd21):
    assert round(sum(p.numel() for p in sd21.denoiser.parameters()) / 1e6, 1) == 865.9
    kinds = [layer.kind for layer in sd21.layers]
    assert len(kinds) == 34 and kinds.count("transformer") == 16 and kinds.count("resnet") == 18
    assert sd21.num_train_timesteps == 1000


def test_resnets_that_change_width_are_not_prunable(sd21):
    names = {layer.name for layer in sd21.layers}
    changing = {"down_blocks.1.resnets.0", "down_blocks.2.resnets.0", "up_blocks.2.resnets.0", "up_blocks.3.resnets.0"}
    assert not changing & names


def test_prunable_share_of_sd21_at_768_px(sd21):
    assert sum(layer.macs for layer in sd21.layers) / sd21.total_macs == pytest.approx(0.830, abs=0.0005)


def test_architecture_hash_ignores_what_does_not_shape_tensors(sd21):
    other = type(sd21.denoiser).from_config
    with torch.device("meta"):
        same = other({**sd21.denoiser.config, "sample_size": 64, "upcast_attention": True})
        wider = other({**sd21.denoiser.config, "block_out_channels": (320, 640, 1280, 640)})
    assert architecture_hash(same) == sd21.architecture_hash != architecture_hash(wider)


def test_timestep_embeddings_are_one_frozen_row_a_timestep():
    tiny_backbone = wrap(tiny_pipeline())
    widths = {"sinusoidal": 8, "embedded": 32, "slow_cosines": 16}
    for source, width in widths.items():
        table = tiny_backbone.timestep_embeddings(source)
        assert table.shape == (1000, width) and not table.requires_grad
        assert len(table.unique(dim=0)) == 1000


@pytest.mark.parametrize(
    "spec, weights, message",
    [
        ("no/such/folder/at/all", "pretrained", "backbone.id: no folder no/such/folder/at/all"),
        ("params", "pretrained", "backbone.id: params has no model_index.json"),
        ("sd99", "random", "backbone.id: 'sd99' with random weights"),
    ],
)
def test_bad_backbones_are_named(spec, weights, message):
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        load_backbone(spec, weights)
