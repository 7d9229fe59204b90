"""The small studies of notebook 02 against closed forms, Monte Carlo and each other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import estimators, studies
from alter_lib.backbones import Backbone, wrap
from alter_lib.params import load_params

noises = st.sampled_from(estimators.NOISES)
offsets = st.floats(-3, 5)
LOGIT = np.linspace(-9, 5, 29)


@pytest.mark.parametrize("noise", estimators.NOISES)
@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_keep_probability_is_what_sampling_gives_at_any_temperature(noise: str, temperature: float) -> None:
    logit, draws = torch.linspace(-7, 0, 8), 20_000
    y = estimators.relaxed_masks(logit.repeat(draws, 1), temperature, 4.0, noise, torch.Generator().manual_seed(1))
    found = estimators.binary(y).double().mean(0).numpy()
    expected = studies.keep_probability(logit.double().numpy(), 4.0, noise)
    assert (np.abs(found - expected) < 4.5 * np.sqrt(expected * (1 - expected) / draws) + 1e-9).all()


@given(noises, offsets)
def test_keep_slope_is_the_derivative_of_the_keep_probability(noise: str, offset: float) -> None:
    h = 1e-5
    keep = [studies.keep_probability(LOGIT + d, offset, noise) for d in (-h, h)]
    np.testing.assert_allclose(studies.keep_slope(LOGIT, offset, noise), (keep[1] - keep[0]) / (2 * h), atol=1e-8)


@settings(max_examples=20)
@given(noises, offsets)
def test_the_estimators_bias_vanishes_with_the_temperature(noise: str, offset: float) -> None:
    true = studies.keep_slope(LOGIT, offset, noise)
    warm, cold = (np.abs(studies.expected_slope(LOGIT, offset, t, noise) - true).max() for t in (0.5, 0.05))
    assert cold < 0.01 and cold < warm


@pytest.mark.parametrize("noise", estimators.NOISES)
def test_autograd_through_the_estimator_has_the_expected_mean(noise: str) -> None:
    found = studies.estimator_gradients(load_params("params/smoke.yaml", {"hypernetwork.noise": noise}))
    assert (np.abs(found["mean"] - found["closed"]) < 4.5 * found["error"] + 1e-6).all()


def test_slope_at_the_start_by_hand() -> None:
    table = studies.closed_forms()
    start = table[(table.logit == 0) & (table.offset == 4) & (table.temperature == 0.4) & (table.noise == "gumbel")]
    assert start.slope.item() == pytest.approx(1.135e-4, rel=1e-3)  # sigmoid(10) (1 - sigmoid(10)) / 0.4
    assert start.keep.item() == pytest.approx(1 - np.exp(-np.exp(4)))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return wrap(tiny_pipeline())


def test_ratio_trials(backbone: Backbone) -> None:
    params = load_params("params/smoke.yaml", {"training.hypernetwork_learning_rate": 3e-3})
    printed = studies.ratio_trial(params, backbone, 150, "sampled")
    steered = studies.ratio_trial(params, backbone, 150, "evaluation")
    assert printed.ratio.iloc[0] == steered.ratio.iloc[0] == 1  # every layer is on at the start
    assert abs(printed.sampled_ratio.tail(20).mean() - 0.65) < 0.05  # what it sees is what it steers
    assert abs(steered.ratio.tail(20).mean() - 0.65) < 0.05
    identity = studies.ratio_trial(params, backbone, 1, "evaluation", "identity")
    assert identity.gradient.item() > 100 * steered.gradient.iloc[0]


def test_hypernetwork_is_the_runs_and_leaves_the_random_state_alone(backbone: Backbone) -> None:
    params = load_params("params/smoke.yaml", {"hypernetwork.num_experts": 3})
    before = torch.random.get_rng_state()
    (one, e_t), (two, _) = (studies.hypernetwork(params, backbone) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert e_t.shape == (1000, 32) and one.generator.z.shape == (3, len(backbone.layers), 64)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
