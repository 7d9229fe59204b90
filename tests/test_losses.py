"""Losses (paper §3.3, B.2) against hand calculations."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alter_lib import losses


def test_squared_error_reductions():
    a, b = torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    assert losses.squared_error(a, b).item() == pytest.approx(14 / 6)
    assert losses.squared_error(a, b, "sum").item() == pytest.approx((5 + 9) / 2)


def test_interval_means_are_each_intervals_own():
    errors = losses.sample_errors(torch.tensor([[1.0, 3.0], [2.0, 0.0], [4.0, 4.0]]), torch.zeros(3, 2))
    assert errors.tolist() == [5, 2, 16]
    means = losses.interval_means(torch.stack([errors, 2 * errors], dim=1), torch.tensor([1, 0, 1]), 2)
    assert means.tolist() == [[2, 4], [10.5, 21]]


def test_feature_distillation_sums_over_blocks():
    teacher, student = [torch.zeros(1, 2), torch.zeros(1, 1)], [torch.ones(1, 2), torch.full((1, 1), 3.0)]
    assert losses.feature_distillation(teacher, student).item() == pytest.approx(1 + 9)
    assert losses.feature_distillation(teacher, student, "sum").item() == pytest.approx(2 + 9)


def test_active_share_of_the_prunable_layers_and_of_the_whole():
    m, c = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), torch.tensor([1.0, 2.0, 3.0])
    assert losses.active_share(m, c).tolist() == pytest.approx([4 / 6, 0])
    assert losses.active_share(m, c, 4.0).tolist() == pytest.approx([8 / 10, 4 / 10])


@given(st.floats(0.05, 1.0), st.floats(0.05, 1.0))
def test_ratio_loss_is_the_log_of_the_larger_over_the_smaller(s, p):
    found = losses.ratio_loss(torch.tensor(s, dtype=torch.float64), p).item()
    assert found == pytest.approx(math.log(max(s, p) / min(s, p)), abs=1e-4)


def test_balance_is_one_when_even_and_num_experts_when_collapsed():
    even = 50 * torch.eye(4)
    collapsed = torch.zeros(4, 4)
    collapsed[:, 2] = 50
    assert losses.balance_loss(even).item() == pytest.approx(1)
    assert losses.balance_loss(collapsed).item() == pytest.approx(4)


def test_balance_by_hand():
    """Two experts, three timesteps: F = (2/3, 1/3); P the mean softmax."""
    logits = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    p = [sum(math.exp(row[i]) / (math.exp(row[0]) + math.exp(row[1])) for row in logits.tolist()) / 3 for i in (0, 1)]
    assert losses.balance_loss(logits).item() == pytest.approx(2 * (2 / 3 * p[0] + 1 / 3 * p[1]))


ALPHAS_CUMPROD = torch.tensor([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.6])  # betas 0.1, 0.2, 0.4


def test_the_variational_bound_of_a_middle_step_by_hand():
    """One value, t = 2: q(x_1 | x_2, x_0) against the Gaussian that epsilon and v describe."""
    x_0, x_t, eps, v = 0.3, -0.4, 0.5, 0.2
    a_bar, before, beta = 0.432, 0.72, 0.4
    tilde = beta * (1 - before) / (1 - a_bar)

    def mean(x_start: float) -> float:
        return (math.sqrt(before) * beta * x_start + math.sqrt(1 - beta) * (1 - before) * x_t) / (1 - a_bar)

    predicted = (x_t - math.sqrt(1 - a_bar) * eps) / math.sqrt(a_bar)
    variance = math.exp(0.6 * math.log(beta) + 0.4 * math.log(tilde))  # (v + 1) / 2 = 0.6
    apart = (mean(x_0) - mean(predicted)) ** 2
    expected = 0.5 * (math.log(variance / tilde) + (tilde + apart) / variance - 1) / math.log(2)
    values = [torch.full((1, 1, 1, 1), value) for value in (eps, v, x_0, x_t)]
    found = losses.variational_bound(*values, torch.tensor([2]), ALPHAS_CUMPROD)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_the_variational_bound_at_t_0_is_the_likelihood_of_a_bin():
    x_0, x_t, eps, v = 0.1, 0.15, 0.2, -1.0
    tilde_1 = 0.2 * (1 - 0.9) / (1 - 0.72)  # beta~_1 stands in for beta~_0 = 0
    mean = (x_t - math.sqrt(0.1) * eps) / math.sqrt(0.9)  # at t = 0 the mean is the predicted x_0
    gaussian = statistics.NormalDist(mean, math.sqrt(tilde_1))
    expected = -math.log2(gaussian.cdf(x_0 + 1 / 255) - gaussian.cdf(x_0 - 1 / 255))
    values = [torch.full((1, 1, 1, 1), value) for value in (eps, v, x_0, x_t)]
    found = losses.variational_bound(*values, torch.tensor([0]), ALPHAS_CUMPROD)
    assert found.item() == pytest.approx(expected, rel=1e-3)


def test_the_outermost_bins_reach_to_infinity():
    x, mean = torch.tensor([1.0, -1.0]), torch.tensor([5.0, -5.0])
    torch.testing.assert_close(losses.bin_nll(x, mean, torch.zeros(2)), torch.zeros(2), atol=1e-4, rtol=0)


def test_the_ramped_target_falls_from_one_to_p_and_stays():
    targets = [losses.ramped_target(0.6, step, 4) for step in range(7)]
    assert targets == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.6, 0.6])
    assert losses.ramped_target(0.6, 0, 0.0) == 0.6
