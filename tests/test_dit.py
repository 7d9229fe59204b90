"""DiT: the facts of DiT-XL/2, shared embedders, and the laws of execution, block 0 among the skipped ones."""

import copy

import pytest
import torch
from diffusers import DiTPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_dit_pipeline import BLOCKS, embedders, tiny_dit_pipeline, tiny_transformer

from alter_lib import (
    ExpertPlan,
    ParamsError,
    apply_plan,
    load_backbone,
    load_pipeline,
    remove_plan,
    save_pipeline,
    skipping,
)
from alter_lib.backbones import dit as adapter
from alter_lib.backbones import feature_points, wrap
from alter_lib.plan.schedules import visited_timesteps
from alter_lib.sampling import LearnedVarianceDiTPipeline, guide, learned_variance_scheduler

DIT = tiny_transformer().double()
CASES = st.tuples(st.integers(0, 2**31), st.integers(1, 4))


def case(drawn: tuple[int, int]) -> tuple:
    """Blocks, masks [B, N_L] with block 0 off for the first sample, inputs."""
    seed, batch = drawn
    random = torch.Generator().manual_seed(seed)
    masks = torch.rand(batch, BLOCKS, generator=random) < 0.5
    masks[0, 0] = False
    inputs = (
        torch.randn(batch, 4, 8, 8, generator=random, dtype=torch.float64),
        torch.randint(1000, (batch,), generator=random),
        torch.randint(1001, (batch,), generator=random),
    )
    return list(DIT.transformer_blocks), masks, inputs


def gradients(output: torch.Tensor) -> dict[str, torch.Tensor]:
    DIT.zero_grad(set_to_none=True)
    output.square().sum().backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in DIT.named_parameters()}


@settings(max_examples=15, deadline=None)
@given(CASES)
def test_sub_batch_is_the_masked_forward_in_values_and_gradients(drawn):
    blocks, masks, inputs = case(drawn)
    with skipping.masked(blocks, masks.double()):
        expected = DIT(*inputs).sample
    with skipping.sub_batch(blocks, masks):
        found = DIT(*inputs).sample
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    wanted = gradients(expected)
    for name, gradient in gradients(found).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-6, atol=1e-7 * (1 + wanted[name].abs().max().item()))


@settings(max_examples=15, deadline=None)
@given(CASES)
def test_no_graph_through_masked_samples_is_plain_autograd(drawn):
    blocks, masks, (x, t, labels) = case(drawn)
    frozen, results = copy.deepcopy(DIT).requires_grad_(False), []
    blocks = list(frozen.transformer_blocks)
    for context in (lambda m: skipping.masked(blocks, m), lambda m: skipping.straight_through(blocks, m, masks)):
        m, x_in = masks.double().requires_grad_(), x.clone().requires_grad_()
        with context(m):
            output = frozen(x_in, t, labels).sample
        output.square().sum().backward()
        results.append((output.detach(), m.grad, x_in.grad))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7 * (1 + expected.abs().max().item()))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_under_a_plan_a_call_is_the_masked_forward_and_skipped_blocks_are_not_called(seed):
    """Of every expert, on the bare transformer; expert 0 skips block 0."""
    _, masks, (x, _, labels) = case((seed, 3))
    model = copy.deepcopy(DIT)
    plan = ExpertPlan.for_backbone(wrap(tiny_dit_pipeline()), masks, torch.arange(1000) * 3 // 1000)
    calls = dict.fromkeys(range(BLOCKS), 0)
    for i, block in enumerate(model.transformer_blocks):
        block.attn1.register_forward_pre_hook(lambda *_, i=i: calls.update({i: calls[i] + 1}))
    for expert, t in enumerate((0, 500, 999)):
        timestep = torch.full((3,), t)
        with torch.no_grad(), skipping.masked(list(DIT.transformer_blocks), masks[expert].double().expand(3, -1)):
            expected = DIT(x, timestep, labels).sample
        apply_plan(model, plan)
        calls.update(dict.fromkeys(calls, 0))
        with torch.no_grad():
            found = model(x, timestep=timestep, class_labels=labels).sample
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
        assert [calls[i] for i in range(BLOCKS)] == masks[expert].long().tolist()
        remove_plan(model)


def test_all_ones_is_the_unpruned_network_bit_for_bit_and_the_plan_comes_off():
    pipe = tiny_dit_pipeline()
    backbone = wrap(pipe)
    routing = torch.zeros(1000, dtype=torch.long)

    def draw() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return pipe([1, 7], num_inference_steps=3, generator=generator, output_type="pt").images

    before = draw()
    apply_plan(pipe, ExpertPlan.for_backbone(backbone, torch.ones(1, BLOCKS, dtype=torch.bool), routing))
    assert torch.equal(draw(), before)
    half = torch.arange(BLOCKS)[None] % 2 == 1  # block 0 is out
    apply_plan(pipe, ExpertPlan.for_backbone(backbone, half, routing))
    assert not torch.equal(draw(), before)
    remove_plan(pipe)
    assert torch.equal(draw(), before)


def test_mixed_timesteps_run_as_sub_batches():
    pipe = tiny_dit_pipeline()
    masks = torch.rand(2, BLOCKS, generator=torch.Generator().manual_seed(1)) < 0.5
    plan = ExpertPlan.for_backbone(wrap(pipe), masks, torch.arange(1000) // 500)
    apply_plan(pipe, plan)
    x, t, labels = torch.randn(4, 4, 8, 8), torch.tensor([3, 900, 100, 600]), torch.tensor([1, 2, 1000, 4])
    with torch.no_grad():
        together = pipe.transformer(x, t, labels).sample
        alone = torch.cat([pipe.transformer(x[i : i + 1], t[i : i + 1], labels[i : i + 1]).sample for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_dit_xl_2_facts_on_the_meta_device():
    backbone = load_backbone("dit_xl2", "random", device="meta")
    assert round(backbone.total_macs / 1e9, 2) == 118.67
    assert {round(layer.macs / 1e9, 3) for layer in backbone.layers} == {4.237} and len(backbone.layers) == 28
    assert round(wrap(backbone.pipeline, "linear+conv").total_macs / 1e9, 2) == 114.44
    assert round(sum(p.numel() for p in backbone.denoiser.parameters()) / 1e6) == 675  # one embedder
    with adapter.separate(backbone.denoiser):
        assert round(sum(p.numel() for p in backbone.denoiser.parameters()) / 1e6, 1) == 749.8
    assert backbone.timestep_embeddings().shape == (1000, 1152)
    assert backbone.timestep_embeddings("sinusoidal").shape == (1000, 256)


def test_equal_embedders_are_shared_and_different_ones_left_alone():
    equal, different = tiny_dit_pipeline().transformer, tiny_transformer()
    adapter.prepare(equal, pretrained=True)
    adapter.prepare(different, pretrained=True)
    assert len(set(embedders(equal))) == 1 and len(set(embedders(different))) == BLOCKS
    assert {e.class_embedder.dropout_prob for e in (*embedders(equal), *embedders(different))} == {0.0}


def test_sharing_changes_no_output():
    dit = tiny_dit_pipeline().transformer
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([5, 5]), torch.tensor([1, 1000])
    with torch.no_grad():
        before = dit(*inputs).sample
        adapter.prepare(dit, pretrained=True)
        assert torch.equal(dit(*inputs).sample, before)


def test_a_saved_pipeline_with_a_shared_embedder_loads_without_this_library(tmp_path):
    pipe = tiny_dit_pipeline()
    adapter.prepare(pipe.transformer, pretrained=True)
    half = torch.arange(BLOCKS)[None] % 2 == 1
    plan = ExpertPlan.for_backbone(wrap(pipe), half, torch.zeros(1000, dtype=torch.long))
    save_pipeline(pipe, plan, tmp_path)
    assert len(set(embedders(pipe.transformer))) == 1  # still shared
    stock = DiTPipeline.from_pretrained(tmp_path).transformer
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([5, 5]), torch.tensor([1, 1000])
    with torch.no_grad():
        assert torch.equal(stock(*inputs).sample, pipe.transformer(*inputs).sample)
    deployed = load_pipeline(tmp_path)
    assert deployed.labels == pipe.labels == {f"class {i}": i for i in range(10)}
    apply_plan(pipe, plan)
    with torch.no_grad():
        assert torch.equal(deployed.transformer(*inputs).sample, pipe.transformer(*inputs).sample)


def test_feature_points_of_groups_and_of_the_middle():
    blocks = list(DIT.transformer_blocks)
    assert feature_points(DIT, "all") == blocks
    assert feature_points(DIT, "middle") == [blocks[4]]
    assert feature_points(DIT, 4) == [blocks[i] for i in (1, 3, 5, 7)]
    with pytest.raises(ParamsError, match="feature_points: 9 is not at most 8"):
        feature_points(DIT, 9)


def test_guidance_of_three_channels_by_hand():
    output = torch.arange(2 * 8, dtype=torch.float32).view(2, 8, 1, 1)  # labelled 0..7, unlabelled 8..15
    found = guide(output, 1.5)[0, :, 0, 0].tolist()
    assert found == [8 - 1.5 * 8, 9 - 1.5 * 8, 10 - 1.5 * 8, 3, 4, 5, 6, 7]


def test_the_learned_variance_sampler_visits_the_repositorys_timesteps():
    """space_timesteps(1000, "250") of the DiT repository: strides of 999 / 249, rounded, from T - 1 down to 0."""
    visited = visited_timesteps(learned_variance_scheduler(tiny_dit_pipeline().scheduler.config), 250)
    assert visited == [round(i * 999 / 249) for i in reversed(range(250))]


def test_a_step_of_the_learned_variance_sampler_by_hand():
    """From t = 999 to 500: mean and variance of the respaced process, v = -1 (log beta~) and v = +1 (log beta)."""
    scheduler = learned_variance_scheduler(tiny_dit_pipeline().scheduler.config)
    scheduler.set_timesteps(timesteps=[999, 500, 0])
    a_bar, a_bar_previous = (scheduler.alphas_cumprod[t].double().item() for t in (999, 500))
    beta = 1 - a_bar / a_bar_previous
    tilde = beta * (1 - a_bar_previous) / (1 - a_bar)
    x, eps, noise = 0.7, 0.2, torch.randn(1, 1, 1, 1, generator=torch.Generator().manual_seed(3)).item()
    x_0 = (x - (1 - a_bar) ** 0.5 * eps) / a_bar**0.5
    mean = beta * a_bar_previous**0.5 / (1 - a_bar) * x_0 + (1 - a_bar_previous) * (1 - beta) ** 0.5 / (1 - a_bar) * x
    for v, variance in ((-1.0, tilde), (1.0, beta)):
        output = torch.tensor([eps, v]).view(1, 2, 1, 1)
        random = torch.Generator().manual_seed(3)
        found = scheduler.step(output, 999, torch.full((1, 1, 1, 1), x), random).prev_sample.item()
        assert found == pytest.approx(mean + variance**0.5 * noise, rel=1e-3)


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_the_learned_variance_pipeline_draws_under_a_plan_and_by_seed(guidance):
    pipe = tiny_dit_pipeline()
    half = torch.arange(BLOCKS)[None] % 2 == 1
    apply_plan(pipe, ExpertPlan.for_backbone(wrap(pipe), half, torch.zeros(1000, dtype=torch.long)))
    ancestral, calls = LearnedVarianceDiTPipeline.of(pipe), []
    pipe.transformer.transformer_blocks[0].attn1.register_forward_pre_hook(lambda *_: calls.append(0))

    def draw(labels: list[int], first: int) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(first + i) for i in range(len(labels))]
        return ancestral(labels, guidance, generators, 4, "pt").images

    both = draw([3, 8], 0)
    assert both.shape == (2, 3, 32, 32) and not calls
    torch.testing.assert_close(draw([8], 1)[0], both[1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(pipe([3], guidance, torch.Generator().manual_seed(0), 4, "pt").images, both[:1])
