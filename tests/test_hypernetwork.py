"""Expert generator and router (paper Tables 5, 6)."""

import pytest
import torch

from alter_lib.hypernetwork import ExpertGenerator, Hypernetwork, TemporalRouter, equal_intervals


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_of_tables_5_and_6_by_hand():
    # Linear 64 -> 256 with bias, LayerNorm 256, Linear 256 -> 1 without
    assert count(ExpertGenerator(10, 34)) == 64 * 256 + 256 + 2 * 256 + 256
    # SD2.1's embedded timestep is 1280 wide: Linear 1280 -> 64, LayerNorm 64, Linear 64 -> 10
    assert count(TemporalRouter(1280, 10)) == 1280 * 64 + 64 + 2 * 64 + 64 * 10


def test_generator_input_is_orthogonal_and_frozen():
    z = ExpertGenerator(4, 6, 8).z
    assert not z.requires_grad
    torch.testing.assert_close(z @ z.mT, torch.eye(6).expand(4, 6, 6), atol=1e-5, rtol=0)


def test_shared_inputs_of_two_experts_differ_by_the_experts_vectors_alone():
    z = ExpertGenerator(3, 6, 16, inputs="shared").z
    assert not z.requires_grad
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(3, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close((z[0] - z[1]), (z[0, :1] - z[1, :1]).expand(6, 16))
    torch.testing.assert_close(z[0] @ z[1].mT, 0.5 * torch.eye(6), atol=1e-5, rtol=0)  # the same layer: 60 degrees


def test_training_starts_with_every_layer_on_and_evaluation_is_deterministic():
    torch.manual_seed(0)
    net, e_t = Hypernetwork(5, 7, 12), torch.randn(50, 12)
    masks, routing = net.evaluate(e_t)
    assert masks.detach().eq(1).all() and routing.sum(-1).allclose(torch.ones(50))
    assert all(torch.equal(a, b) for a, b in zip(net.evaluate(e_t), (masks, routing), strict=True))


def test_manual_routes_by_equal_intervals_under_noise_too_and_has_no_router_to_train():
    torch.manual_seed(0)
    net, e_t = Hypernetwork(4, 7, 12, router="intervals"), torch.randn(10, 12)
    assert count(net.router) == 0
    by_hand = [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    sampled = [net.sample(e_t, torch.Generator().manual_seed(seed)) for seed in range(20)]
    for decisions in (net.evaluate(e_t), *sampled):
        assert decisions.routing.argmax(-1).tolist() == by_hand
        torch.testing.assert_close(decisions.routing.sum(-1), torch.ones(10))
    sampled[0].masks.sum().backward()
    assert net.generator.net[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("timesteps", "experts"), [(1000, 10), (10, 4), (7, 7), (5, 1)])
def test_equal_intervals_differ_in_length_by_one_at_most(timesteps, experts):
    lengths = equal_intervals(timesteps, experts).bincount(minlength=experts)
    assert lengths.sum() == timesteps and lengths.max() - lengths.min() <= 1


def test_masks_in_force_are_the_routed_experts_rows():
    torch.manual_seed(0)
    net, e_t = Hypernetwork(5, 7, 12, mask_offset=0.0), torch.randn(50, 12)
    decisions = net.sample(e_t, torch.Generator().manual_seed(3))
    timesteps = torch.tensor([0, 49, 7])
    expert = decisions.routing.argmax(-1)[timesteps]
    torch.testing.assert_close(decisions.at(timesteps), decisions.masks[expert])


def test_soft_estimator_is_not_binary_and_equals_the_straight_through_gradient():
    torch.manual_seed(0)
    net, e_t = Hypernetwork(3, 4, 6, mask_offset=0.0), torch.randn(9, 6)
    gradients = []
    for estimator in ("soft", "straight_through"):
        net.estimator = estimator
        net.zero_grad()
        masks, _ = net.sample(e_t, torch.Generator().manual_seed(5))
        masks.sum().backward()
        gradients.append(net.generator.net[0].weight.grad.clone())
        assert (masks.detach().frac().abs() > 1e-6).any() == (estimator == "soft")
    torch.testing.assert_close(*gradients)
