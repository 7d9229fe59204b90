"""Channels-last and fused projections: the same function, off again bit for bit, and nothing of it in what is saved."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from planned_pipeline import denoise, own_attributes, random_plan
from tiny_dit_pipeline import tiny_dit_pipeline
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import PlanError, apply_plan, load_pipeline, remove_plan, save_pipeline
from alter_lib.backbones import wrap
from alter_lib.inference.patching import patch_of


@pytest.mark.parametrize("options", [{"channels_last": True}, {"fuse_projections": True}])
def test_the_same_function_and_off_again_bit_for_bit(options: dict) -> None:
    pipe, plan = tiny_pipeline(), random_plan()
    before, attributes, keys = denoise(300, pipe.unet), own_attributes(pipe.unet), list(pipe.unet.state_dict())
    apply_plan(pipe, plan)
    expected = denoise(300, pipe.unet)
    apply_plan(pipe, plan, **options)
    weights = [p for p in pipe.unet.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert weights and all(p.is_contiguous() != bool(options.get("channels_last")) for p in weights)
    assert any("to_qkv" in key for key in pipe.unet.state_dict()) == bool(options.get("fuse_projections"))
    torch.testing.assert_close(denoise(300, pipe.unet), expected, rtol=1e-4, atol=1e-5)
    remove_plan(pipe)
    assert torch.equal(denoise(300, pipe.unet), before)
    assert list(pipe.unet.state_dict()) == keys and all(p.is_contiguous() for p in pipe.unet.parameters())
    assert [set(vars(m)) - {"fused_projections"} for m in pipe.unet.modules()] == [
        names - {"fused_projections"} for names in attributes
    ]


def test_fused_weights_of_a_dit() -> None:
    pipe = tiny_dit_pipeline()
    plan = random_plan(backbone=wrap(pipe))
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([5, 5]), torch.tensor([1, 1000])
    apply_plan(pipe, plan)
    with torch.no_grad():
        expected = pipe.transformer(*inputs).sample
        apply_plan(pipe, plan, fuse_projections=True)
        assert len(patch_of(pipe).layout.processors) == 8
        torch.testing.assert_close(pipe.transformer(*inputs).sample, expected, rtol=1e-4, atol=1e-5)


def test_fused_copies_are_not_saved(tmp_path: Path) -> None:
    pipe, plan = tiny_pipeline(), random_plan()
    apply_plan(pipe, plan, fuse_projections=True)
    expected = denoise(300, pipe.unet)
    save_pipeline(pipe, None, tmp_path)
    assert torch.equal(denoise(300, pipe.unet), expected)  # they are still there
    loaded = load_pipeline(tmp_path)
    assert not [key for key in loaded.unet.state_dict() if "to_qkv" in key or "to_kv" in key]
    torch.testing.assert_close(denoise(300, loaded.unet), expected, rtol=1e-4, atol=1e-5)


def test_projections_under_an_adapter_are_not_fused() -> None:
    pipe = tiny_pipeline()
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(PlanError, match="fuse_projections: an adapter"):
        apply_plan(pipe, random_plan(), fuse_projections=True)
    assert patch_of(pipe) is None
