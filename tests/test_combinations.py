"""A plan together with other ways to save time: token merging, DeepCache, diffusers' caches, half precision, int8."""

import copy
import importlib.util
import warnings
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace

import diffusers
import pytest
import tomesd
import torch
from DeepCache import DeepCacheSDHelper
from diffusers import PyramidAttentionBroadcastConfig
from diffusers.hooks import FirstBlockCacheConfig, HookRegistry, apply_first_block_cache
from diffusers.hooks import apply_pyramid_attention_broadcast as apply_pyramid
from diffusers.models.cache_utils import CacheMixin
from planned_pipeline import LATENTS, PLAN, TEXT, counted, random_plan, sample, smallest_pipeline
from tiny_dit_pipeline import tiny_dit_pipeline
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import ExpertPlan, apply_plan, doctor, remove_plan
from alter_lib.backbones import wrap
from alter_lib.inference.patching import patch_of
from alter_lib.plan.schedules import visited_timesteps


@pytest.fixture
def pipe() -> Iterator[diffusers.StableDiffusionPipeline]:
    yield tiny_pipeline()


def denoised(unet: torch.nn.Module, t: int) -> torch.Tensor:
    with torch.no_grad():
        return unet(LATENTS.to(unet.dtype), torch.tensor(t), TEXT.to(unet.dtype)).sample


# token merging


@pytest.mark.parametrize("tome_first", [True, False])
def test_token_merging(pipe: diffusers.StableDiffusionPipeline, tome_first: bool) -> None:
    """Merged as without a plan, skipped as without merging: under all-ones it is ToMe, and both come off."""
    plain, keys = denoised(pipe.unet, 300), list(pipe.unet.state_dict())
    ones = torch.ones(1, len(PLAN.layer_names), dtype=torch.bool)
    ones = ExpertPlan.for_backbone(wrap(pipe), ones, torch.zeros(1000, dtype=torch.long))
    tomesd.apply_patch(pipe, ratio=0.5, use_rand=False)
    merged = denoised(pipe.unet, 300)
    assert not torch.equal(merged, plain)
    if not tome_first:
        tomesd.remove_patch(pipe)
    apply_plan(pipe, ones)
    if not tome_first:
        tomesd.apply_patch(pipe, ratio=0.5, use_rand=False)
    assert torch.equal(denoised(pipe.unet, 300), merged)
    apply_plan(pipe, PLAN)
    assert not torch.equal(denoised(pipe.unet, 300), merged)
    with counted(pipe.unet) as calls:
        assert sample(pipe).isfinite().all()
    visited = visited_timesteps(pipe.scheduler, 4)
    assert sum(calls.values()) == sum(len(PLAN.active_layers(t)) for t in visited)
    assert doctor(pipe, steps=4, repeats=1).active
    tomesd.remove_patch(pipe)
    remove_plan(pipe)
    assert torch.equal(denoised(pipe.unet, 300), plain) and list(pipe.unet.state_dict()) == keys


def test_token_merging_is_compiled_too() -> None:
    pipe, graphs = smallest_pipeline(attention=True), []
    plan = random_plan(2, 1, backbone=wrap(pipe))
    tomesd.apply_patch(pipe, ratio=0.5, use_rand=False)
    apply_plan(pipe, plan)
    expected = denoised(pipe.unet, 300)
    apply_plan(pipe, plan, compile=lambda graph, inputs: graphs.append(graph) or graph.forward)
    torch.testing.assert_close(denoised(pipe.unet, 300), expected, rtol=1e-4, atol=1e-5)
    made = len(graphs)
    denoised(pipe.unet, 300)
    assert len(graphs) == made > 0


# DeepCache


OUTERMOST = {"up_blocks.3.resnets.2", "up_blocks.3.attentions.2"}  # what a cached step at branch 0 still runs


def test_deepcache_over_a_plan_runs_what_both_run(pipe: diffusers.StableDiffusionPipeline) -> None:
    plain = sample(pipe)
    apply_plan(pipe, PLAN)
    planned = sample(pipe)
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=2, cache_branch_id=0)
    helper.enable()
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    visited = visited_timesteps(pipe.scheduler, 4)
    with counted(pipe.unet) as calls:
        assert sample(pipe).isfinite().all()
    wanted = Counter(name for i, t in enumerate(visited) for name in PLAN.active_layers(t)
                     if i % 2 == 0 or name in OUTERMOST)  # fmt: skip
    assert {name: count for name, count in calls.items() if count} == wanted
    assert wanted.total() < sum(len(PLAN.active_layers(t)) for t in visited)
    helper.disable()
    pipe.scheduler = diffusers.PNDMScheduler.from_config(tiny_pipeline().scheduler.config)
    assert torch.equal(sample(pipe), planned)
    remove_plan(pipe)
    assert torch.equal(sample(pipe), plain)


def test_deepcache_turns_compilation_off_for_as_long_as_it_is_on(pipe: diffusers.StableDiffusionPipeline) -> None:
    """Its choice of layers depends on the step: compiled, every step would be a graph of its own."""
    graphs = []
    apply_plan(pipe, PLAN, compile=lambda graph, inputs: graphs.append(graph) or graph.forward)
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=2, cache_branch_id=0)
    helper.enable()
    sample(pipe)
    assert patch_of(pipe).graphs.dynamic_inside() and not graphs
    helper.disable()
    assert not patch_of(pipe).graphs.dynamic_inside()


# diffusers' caches


def test_pyramid_attention_broadcast_over_a_plan(pipe: diffusers.StableDiffusionPipeline) -> None:
    """Neither denoiser has diffusers' CacheMixin, the functions behind it work on both. An attention whose layer is
    skipped is neither computed nor taken from the cache."""
    assert not hasattr(pipe.unet, "enable_cache")
    apply_plan(pipe, PLAN)
    planned, now = sample(pipe), SimpleNamespace(t=999)
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, cross_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 1000), cross_attention_timestep_skip_range=(-1, 1000),
        current_timestep_callback=lambda: now.t,
    )  # fmt: skip
    apply_pyramid(pipe.unet, config)
    attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    calls = []
    hook = attention.to_q.register_forward_hook(lambda *_: calls.append(0))
    assert not torch.equal(sample(pipe), planned)  # attention outputs were reused
    ran = sum("mid_block.attentions.0" in PLAN.active_layers(t) for t in visited_timesteps(pipe.scheduler, 4))
    assert len(calls) == (ran + 1) // 2
    hook.remove()
    for module in pipe.unet.modules():
        if hasattr(module, "_diffusers_hook"):
            HookRegistry.check_if_exists_or_initialize(module).remove_hook("pyramid_attention_broadcast", recurse=False)
    assert torch.equal(sample(pipe), planned)


def test_first_block_cache_over_a_plan_of_a_dit() -> None:
    """A DiT's blocks carry its hooks around ours: block 0 decides, the others follow, skipped ones stay skipped."""
    pipe = tiny_dit_pipeline()
    masks = torch.arange(8)[None] % 2 == 0
    apply_plan(pipe, ExpertPlan.for_backbone(wrap(pipe), masks, torch.zeros(1000, dtype=torch.long)))
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([5, 5]), torch.tensor([1, 2])
    dit = pipe.transformer
    with torch.no_grad():
        expected = dit(*inputs).sample
        apply_first_block_cache(dit, FirstBlockCacheConfig(threshold=0.5))
        calls = dict.fromkeys(range(8), 0)
        for i, block in enumerate(dit.transformer_blocks):
            block.attn1.register_forward_pre_hook(lambda *_, i=i: calls.update({i: calls[i] + 1}))
        with CacheMixin.cache_context(dit, "cond"):
            assert torch.equal(dit(*inputs).sample, expected)  # nothing cached yet
            torch.testing.assert_close(dit(*inputs).sample, expected)  # all but block 0 from the cache
    assert calls == {0: 2, 1: 0, 2: 1, 3: 0, 4: 1, 5: 0, 6: 1, 7: 0}


# precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(pipe: diffusers.StableDiffusionPipeline, dtype: torch.dtype) -> None:
    apply_plan(pipe, PLAN)
    full = denoised(pipe.unet, 300)
    pipe.to(dtype=dtype)
    half = denoised(pipe.unet, 300)
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), full, rtol=0.1, atol=0.1)
    mixed = torch.tensor([10, 400, 999])
    with torch.no_grad():
        assert pipe.unet(LATENTS.to(dtype), mixed, TEXT.to(dtype)).sample.dtype == dtype
    assert sample(pipe).isfinite().all()


def test_int8_weights(pipe: diffusers.StableDiffusionPipeline) -> None:
    """torchao's weight-only quantisation of the linear layers, before the plan and after it."""
    if importlib.util.find_spec("torchao") is None:
        pytest.skip("torchao is not installed: pip install alter-lib[quantise]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    apply_plan(pipe, PLAN)
    full, twin = denoised(pipe.unet, 300), copy.deepcopy(pipe.unet)
    quantize_(pipe.unet, Int8WeightOnlyConfig(version=2))
    first = denoised(pipe.unet, 300)
    torch.testing.assert_close(first, full, rtol=0.1, atol=0.1)
    remove_plan(twin)
    quantize_(twin, Int8WeightOnlyConfig(version=2))
    apply_plan(twin, PLAN)
    assert torch.equal(denoised(twin, 300), first) and not torch.equal(first, full)


# samplers with few steps


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
@pytest.mark.parametrize("steps", [50, 25, 20, 15, 10])
def test_few_step_samplers_run_the_layers_of_the_timesteps_they_visit(
    pipe: diffusers.StableDiffusionPipeline, name: str, steps: int
) -> None:
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    plan = random_plan(3)
    apply_plan(pipe, plan)
    with counted(pipe.unet) as calls:
        sample(pipe, num_inference_steps=steps)
    found = doctor(pipe, measure=False)
    assert (found.steps, found.calls) == (steps, steps)
    visited = visited_timesteps(pipe.scheduler, steps)
    assert sum(calls.values()) == sum(len(plan.active_layers(t)) for t in visited)
    assert found.ratio == pytest.approx(plan.macs_ratio(visited))
