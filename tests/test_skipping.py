"""The laws of execution: hard skip = masked forward, sub-batch = masked forward, no-graph trick = plain autograd."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st

from alter_lib import skipping
from alter_lib.backbones import unet as adapter

TOLERANCE = dict(rtol=1e-6, atol=1e-8)  # of float64: norms over two values amplify float32 rounding beyond use


def small_unet(widths: tuple[int, ...] = (8, 16, 16, 16), groups: int = 4) -> UNet2DConditionModel:
    """SD2.1's block layout at other widths, random weights, float64."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=widths,
        attention_head_dim=(1, 1, 1, 1),
        cross_attention_dim=16,
        use_linear_projection=True,
        norm_num_groups=groups,
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    ).double()


UNETS = {widths: small_unet(widths) for widths in ((8, 16, 16, 16), (8, 8, 16, 24), (16, 8, 8, 8))}
CASES = st.tuples(st.sampled_from(list(UNETS)), st.integers(0, 2**31), st.integers(1, 4))


def case(drawn: tuple) -> tuple:
    widths, seed, batch = drawn
    random = torch.Generator().manual_seed(seed)
    modules = [module for _, _, module in adapter.prunable_layers(UNETS[widths])]
    masks = torch.rand(batch, len(modules), generator=random) < 0.6
    inputs = (
        torch.randn(batch, 4, 8, 8, generator=random, dtype=torch.float64),
        torch.randint(1000, (batch,), generator=random),
        torch.randn(batch, 5, 16, generator=random, dtype=torch.float64),
    )
    return UNETS[widths], modules, masks, inputs


def gradients(unet: UNet2DConditionModel, output: torch.Tensor) -> dict[str, torch.Tensor]:
    unet.zero_grad(set_to_none=True)
    output.square().sum().backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in unet.named_parameters()}


@settings(max_examples=15, deadline=None)
@given(CASES)
def test_sub_batch_is_the_masked_forward_in_values_and_gradients(drawn):
    unet, modules, masks, inputs = case(drawn)
    with skipping.masked(modules, masks.double()):
        expected = unet(*inputs).sample
    with skipping.sub_batch(modules, masks):
        found = unet(*inputs).sample
    torch.testing.assert_close(found, expected, **TOLERANCE)
    wanted = gradients(unet, expected)
    for name, gradient in gradients(unet, found).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-6, atol=1e-7 * (1 + wanted[name].abs().max().item()))


@settings(max_examples=15, deadline=None)
@given(CASES)
def test_no_graph_through_masked_samples_is_plain_autograd(drawn):
    """Gradients of the masks and of the input; theta is frozen, as in the hypernetwork phase."""
    unet, modules, masks, (x, t, text) = case(drawn)
    results = []
    unet.requires_grad_(False)
    for context in (lambda m: skipping.masked(modules, m), lambda m: skipping.straight_through(modules, m, masks)):
        m, x_in = masks.double().requires_grad_(), x.clone().requires_grad_()
        with context(m):
            output = unet(x_in, t, text).sample
        output.square().sum().backward()
        results.append((output.detach(), m.grad, x_in.grad))
    unet.requires_grad_(True)
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7 * (1 + expected.abs().max().item()))


@pytest.mark.parametrize("widths", list(UNETS))
def test_masked_out_modules_are_not_called(widths):
    unet, modules, masks, inputs = case((widths, 3, 2))
    masks[:, ::3] = False
    calls = dict.fromkeys(range(len(modules)), 0)
    handles = [
        module.conv1.register_forward_pre_hook(lambda *_, i=i: calls.update({i: calls[i] + 1}))
        if hasattr(module, "conv1")
        else module.proj_in.register_forward_pre_hook(lambda *_, i=i: calls.update({i: calls[i] + 1}))
        for i, module in enumerate(modules)
    ]
    with skipping.sub_batch(modules, masks), torch.no_grad():
        unet(*inputs)
    for handle in handles:
        handle.remove()
    assert [calls[i] for i in range(len(modules))] == masks.any(0).long().tolist()


def test_all_ones_is_the_unpruned_network_bit_for_bit_and_contexts_come_off():
    unet, modules, masks, inputs = case(((8, 16, 16, 16), 1, 2))
    with torch.no_grad():
        before = unet(*inputs).sample
        with skipping.sub_batch(modules, torch.ones_like(masks)):
            assert torch.equal(unet(*inputs).sample, before)
        with skipping.sub_batch(modules, masks):
            assert not torch.equal(unet(*inputs).sample, before)
        assert torch.equal(unet(*inputs).sample, before)
    assert not any("forward" in vars(module) for module in modules)


def test_a_skipped_decoder_resnet_passes_the_hidden_half_alone():
    unet = UNETS[8, 16, 16, 16]
    resnet = unet.up_blocks[1].resnets[1]
    hidden, skip = torch.randn(2, 1, 16, 4, 4, dtype=torch.float64)
    with skipping.sub_batch([resnet], torch.tensor([[False]])):
        assert torch.equal(resnet(torch.cat([hidden, skip], 1), torch.randn(1, 32, dtype=torch.float64)), hidden)
