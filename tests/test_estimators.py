"""Estimators (paper B.3) against closed forms and Monte Carlo."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from alter_lib import estimators as e

LOGITS = st.lists(st.floats(-6, 6), min_size=1, max_size=6).map(torch.tensor)


@given(LOGITS, st.sampled_from(["gumbel", "logistic"]), st.integers(0, 2**31))
def test_straight_through_masks_are_binary(logits, noise, seed):
    y = e.relaxed_masks(logits, noise=noise, generator=torch.Generator().manual_seed(seed))
    hard = e.straight_through(e.binary(y), y)
    assert set(hard.round(decimals=6).tolist()) <= {0.0, 1.0}


def test_keep_probability_with_one_gumbel_variable_and_with_a_logistic_one():
    """P(L + g + b > 0): 1 - exp(-exp(L + b)) for Gumbel noise, sigmoid(L + b) for logistic noise."""
    x, draws = -0.7, 200_000
    logits = torch.full((draws,), x - 4.0)
    random = torch.Generator().manual_seed(0)
    kept = {noise: e.binary(e.relaxed_masks(logits, noise=noise, generator=random)).mean().item() for noise in e.NOISES}
    error = 4 * math.sqrt(0.25 / draws)  # four standard deviations
    assert abs(kept["gumbel"] - (1 - math.exp(-math.exp(x)))) < error
    assert abs(kept["logistic"] - 1 / (1 + math.exp(-x))) < error


@given(st.floats(-6, 6))
def test_gradient_of_a_noise_free_mask_is_the_sigmoid_slope(logit):
    """d y / d L = y (1 - y) / tau."""
    logits = torch.tensor([logit], requires_grad=True)
    y = e.relaxed_masks(logits, noise=None)
    e.straight_through(e.binary(y), y).sum().backward()
    value = 1 / (1 + math.exp(-(logit + 4.0) / 0.4))
    torch.testing.assert_close(logits.grad.item(), value * (1 - value) / 0.4, rtol=1e-3, atol=1e-6)


def test_slope_at_the_printed_start_is_about_1e_4():
    """Offset 4, temperature 0.4, logit 0: why the printed recipe hardly moves its gates."""
    logits = torch.zeros(1, requires_grad=True)
    e.relaxed_masks(logits, noise=None).sum().backward()
    assert 1e-4 < logits.grad.item() < 1.2e-4


@given(st.integers(0, 2**31))
def test_routing_rows_are_one_hot_and_gradients_pass_through_the_softmax(seed):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(7, 4, generator=random, requires_grad=True)
    y = e.relaxed_routing(logits, noise=False)
    hard = e.straight_through(e.one_hot(y), y)
    assert torch.equal(hard.detach().round(), torch.nn.functional.one_hot(logits.argmax(-1), 4).float())
    (hard * torch.arange(4.0)).sum().backward()
    expected = torch.autograd.functional.jacobian(
        lambda x: (torch.softmax(x / 0.4, -1) * torch.arange(4.0)).sum(), logits.detach()
    )
    torch.testing.assert_close(logits.grad, expected)


def test_gumbel_softmax_picks_each_expert_with_its_softmax_probability():
    logits = torch.tensor([0.3, -0.5, 1.0]).repeat(100_000, 1)
    picked = e.one_hot(e.relaxed_routing(logits, generator=torch.Generator().manual_seed(1))).mean(0)
    torch.testing.assert_close(picked, logits[0].softmax(-1), atol=0.01, rtol=0)
