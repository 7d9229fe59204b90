"""Layers that no expert uses leave memory and disk; the rest draws the same pictures."""

import gc
import json
import weakref
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from planned_pipeline import sample, smallest_pipeline
from tiny_dit_pipeline import tiny_dit_pipeline
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import ExpertPlan, PlanError, apply_plan, doctor, load_pipeline, remove_plan, save_pipeline
from alter_lib.backbones import dit as dit_adapter
from alter_lib.backbones import wrap
from alter_lib.inference.compaction import dropped_layers, unused_layers

UNUSED = ("down_blocks.0.resnets.1", "mid_block.attentions.0", "up_blocks.3.attentions.2")


def plan_without(pipe: object, names: tuple[str, ...]) -> ExpertPlan:
    """Expert 0 also skips the first of the other layers; expert 2 would run `names` but serves no timestep."""
    backbone = wrap(pipe)
    layers = [layer.name for layer in backbone.layers]
    masks = torch.ones(3, len(layers), dtype=torch.bool)
    masks[:2, [layers.index(name) for name in names]] = False
    masks[0, next(i for i, name in enumerate(layers) if name not in names)] = False
    return ExpertPlan.for_backbone(backbone, masks, (torch.arange(1000) >= 500).long())


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_dropped_layers_leave_memory_and_nothing_else_changes() -> None:
    pipe = tiny_pipeline()
    plan = plan_without(pipe, UNUSED)
    apply_plan(pipe, plan)
    expected, before = sample(pipe), parameters(pipe.unet)
    weight = sum(parameters(pipe.unet.get_submodule(name)) for name in UNUSED)
    assert unused_layers(plan) == plan.compact(pipe) == dropped_layers(pipe) == UNUSED
    assert parameters(pipe.unet) == before - weight
    assert not [key for key in pipe.unet.state_dict() if key.startswith(UNUSED)]
    assert torch.equal(sample(pipe), expected)
    found = doctor(pipe, repeats=1)
    assert found.active and found.measured_speedup is None and found.pruned_seconds > 0
    assert "dropped: 3 layers that no expert runs" in str(found)


def test_without_its_layers_a_pipeline_takes_no_plan_that_runs_them() -> None:
    pipe = tiny_pipeline()
    plan = plan_without(pipe, UNUSED)
    plan.compact(pipe)  # applies the plan too
    whole = ExpertPlan.for_backbone(
        wrap(pipe), torch.ones(1, len(plan.layer_names), dtype=torch.bool), torch.zeros(1000, dtype=torch.long)
    )
    with pytest.raises(PlanError, match="experts: down_blocks.0.resnets.1 runs, but its weights were dropped"):
        apply_plan(pipe, whole)
    with pytest.raises(PlanError, match="remove_plan: 3 layers were dropped"):
        remove_plan(pipe)
    fewer = plan_without(pipe, (*UNUSED, "up_blocks.0.resnets.0"))
    apply_plan(pipe, fewer)  # a plan that runs fewer fits, and more can be dropped
    assert "up_blocks.0.resnets.0" in fewer.compact(pipe)
    assert len(dropped_layers(pipe)) == 4 and sample(pipe).isfinite().all()


def test_a_compact_pipeline_is_saved_as_one_and_loads(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pipe = tiny_pipeline()
    plan = plan_without(pipe, UNUSED)
    plan.compact(pipe)
    expected = sample(pipe)
    save_pipeline(pipe, None, tmp_path)
    assert json.loads((tmp_path / "plan.json").read_text())["dropped_layers"] == list(UNUSED)
    card = (tmp_path / "README.md").read_text()
    assert "3 of 36 layers are not in this folder" in card and all(name in card for name in UNUSED)
    capsys.readouterr()
    loaded = load_pipeline(tmp_path)
    assert "newly initialized" not in capsys.readouterr().err
    loaded.set_progress_bar_config(disable=True)
    assert dropped_layers(loaded) == UNUSED and torch.equal(sample(loaded), expected)
    loaded.to(torch.float32)  # no weights without values are left
    stock = StableDiffusionPipeline.from_pretrained(tmp_path)
    with pytest.raises((RuntimeError, NotImplementedError)):  # without its plan it does not run at all
        sample(stock)


@pytest.mark.parametrize("options", [{"compile": lambda graph, _: graph.forward}, {"fuse_projections": True}])
def test_nothing_holds_on_to_dropped_weights(options: dict) -> None:
    """Neither the graphs of a compiled plan nor its fused projections keep them in memory."""
    pipe = smallest_pipeline(attention=True)
    name = "down_blocks.0.attentions.0"
    plan = plan_without(pipe, (name,))
    apply_plan(pipe, plan, **options)
    expected = sample(pipe)
    dropped = [weakref.ref(parameter) for parameter in pipe.unet.get_submodule(name).parameters()]
    assert plan.compact(pipe) == (name,)
    gc.collect()
    assert dropped and not any(parameter() is not None for parameter in dropped)
    assert torch.equal(sample(pipe), expected)


@pytest.mark.parametrize("shared", [True, False])
def test_dits_output_head_keeps_the_embedder_of_a_dropped_block_0(shared: bool, tmp_path: Path) -> None:
    pipe = tiny_dit_pipeline()
    if shared:
        dit_adapter.prepare(pipe.transformer, pretrained=True)
    names = ("transformer_blocks.0", "transformer_blocks.3")
    plan = plan_without(pipe, names)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([5, 5]), torch.tensor([1, 1000])
    apply_plan(pipe, plan)
    with torch.no_grad():
        expected = pipe.transformer(*inputs).sample
        assert plan.compact(pipe) == names
        assert torch.equal(pipe.transformer(*inputs).sample, expected)
        assert not hasattr(pipe.transformer.transformer_blocks[3], "attn1")
        save_pipeline(pipe, None, tmp_path)
        assert torch.equal(load_pipeline(tmp_path).transformer(*inputs).sample, expected)
    assert doctor(pipe, steps=2, repeats=1).active
