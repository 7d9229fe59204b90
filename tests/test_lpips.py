"""LPIPS on the repository's AlexNet is torchmetrics' LPIPS with that AlexNet in it."""

import numpy as np
import pytest
import torch
import torchmetrics.functional.image.lpips as reference

from alter_lib.evaluation.features import alexnet, channels_first
from alter_lib.evaluation.lpips import lpips

RANDOM = np.random.default_rng(0)
A = RANDOM.integers(0, 256, (3, 64, 48, 3), dtype=np.uint8)


def test_is_torchmetrics_class_on_the_same_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda net, pretrained: alexnet().features)
    network = reference._LPIPS(pretrained=True, net="alex")
    b = RANDOM.integers(0, 256, A.shape, dtype=np.uint8)
    with torch.no_grad():
        expected = network(*(channels_first(x).float() / 127.5 - 1 for x in (A, b))).flatten()
    assert lpips(A, b, batch_size=2) == pytest.approx(expected.numpy(), rel=1e-4)


def test_equal_images_are_at_zero_and_noise_moves_away() -> None:
    noisy = [(A + RANDOM.normal(0, sigma, A.shape)).clip(0, 255).astype(np.uint8) for sigma in (10, 60)]
    near, far = (lpips(A, x).mean() for x in noisy)
    assert lpips(A, A).max() == 0 and 0 < near < far
