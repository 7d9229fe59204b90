"""The feature extractors on the embedded pictures: AlexNet (FID-AlexNet) and the dual encoder (proxy text scores)."""

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from torchmetrics.image.fid import FrechetInceptionDistance

from alter_lib.data import emoji
from alter_lib.evaluation.features import (
    alexnet,
    channels_first,
    image_embeddings,
    image_features,
    text_embeddings,
)
from alter_lib.evaluation.metrics import Moments, frechet_distance, text_ranks


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    images, _ = emoji.load("train")
    return images[np.random.default_rng(0).permutation(len(images))[:400]]


@pytest.fixture(scope="module")
def features(pictures: np.ndarray) -> np.ndarray:
    return image_features(pictures)


def test_shape_dtype_and_sign(features: np.ndarray) -> None:
    assert features.shape == (400, 256) and features.dtype == np.float64
    assert (features >= 0).all()  # after a ReLU
    assert ((features > 0).mean(0) > 0).mean() > 0.95  # hardly a unit that never fires: the weights arrived


def test_normalisation_is_imagenets() -> None:
    network, mean, deviation = alexnet(), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    for channel in range(3):  # (x / 127.5 - 1 - shift) / scale = (x / 255 - mean) / deviation
        shift, scale = network.shift[channel].item(), network.scale[channel].item()
        assert (shift + 1) / 2 == pytest.approx(mean[channel], abs=1e-6)
        assert scale / 2 == pytest.approx(deviation[channel], abs=1e-6)


def test_small_images_are_enlarged_bilinearly() -> None:
    image = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    enlarged = interpolate(image.float(), (112, 112), mode="bilinear")
    network = alexnet()
    expected = network.features((enlarged / 127.5 - 1 - network.shift) / network.scale).mean((2, 3))
    assert torch.allclose(network(image), expected, atol=1e-4)


def test_features_do_not_depend_on_the_batch(pictures: np.ndarray, features: np.ndarray) -> None:
    assert image_features(pictures[:5], batch_size=2) == pytest.approx(features[:5], abs=1e-4)


def test_frechet_distance_is_torchmetrics_fid_on_the_same_extractor(pictures: np.ndarray, features: np.ndarray) -> None:
    # a copy: set_dtype would turn the shared network to double for whoever comes next
    fid = FrechetInceptionDistance(feature=copy.deepcopy(alexnet())).set_dtype(torch.float64)
    for half, real in ((pictures[:100], True), (pictures[100:200], False)):
        fid.update(channels_first(half), real=real)
    ours = frechet_distance(Moments.of(features[:100]), Moments.of(features[100:200]))
    assert ours == pytest.approx(fid.compute().item(), rel=1e-3)


def test_noise_moves_the_distance_up(pictures: np.ndarray, features: np.ndarray) -> None:
    """Real against real is the floor; noise of sigma 10, 30, 80 lies above it in this order, by far."""
    rng, reference = np.random.default_rng(0), Moments.of(features[:200])
    distances = [frechet_distance(reference, Moments.of(features[200:300]))]
    for sigma in (10, 30, 80):
        noisy = pictures[200:300] + rng.normal(0, sigma, (100, 32, 32, 3))
        noisy = image_features(noisy.clip(0, 255).round().astype(np.uint8))
        distances.append(frechet_distance(reference, Moments.of(noisy)))
    assert distances == sorted(distances)
    assert distances[3] > 3 * distances[0]


def test_proxy_embeddings_are_unit_vectors_of_one_space(pictures: np.ndarray) -> None:
    images, texts = image_embeddings(pictures[:7], batch_size=3), text_embeddings(["red apple", "ghost"])
    assert images.shape == (7, 64) and texts.shape == (2, 64)
    assert np.linalg.norm(np.concatenate([images, texts]), axis=1) == pytest.approx(1, abs=1e-5)
    assert image_embeddings(pictures[:7]) == pytest.approx(images, abs=1e-5)


def test_proxy_finds_the_names_of_real_pictures() -> None:
    """What the proxy is worth: of 100 names, chance finds 0.01 at rank 1 and 0.05 among the first five."""
    found = {}
    for split in ("train", "test"):
        images, rows = emoji.load(split)
        order = np.random.default_rng(0).permutation(len(rows))[:300]
        ranks = text_ranks(image_embeddings(images[order]), text_embeddings([rows[i]["name"] for i in order]))
        found[split] = ((ranks < 1).mean(), (ranks < 5).mean())
    assert found["train"][0] > 0.6 and found["train"][1] > 0.9
    assert found["test"][0] > 0.05 and found["test"][1] > 0.2
