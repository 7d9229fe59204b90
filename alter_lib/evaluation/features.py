"""Feature extractors that come with the repository: AlexNet for FID-AlexNet and KID, a dual encoder for text scores.

Neither is what the paper uses (Inception, CLIP): no figure made with them may be compared with a published one.
Images are uint8 arrays [N, H, W, 3] everywhere.
"""

from functools import lru_cache

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize
from transformers import CLIPModel, CLIPTokenizer

from ..assets import verified
from .classifier import FashionClassifier

EXTRACTOR = "AlexNet relu5, mean-pooled, 112 px"
SPATIAL = "AlexNet relu3, 7 channels with their 6 x 6 positions, 112 px"
CLASSIFIER = "classifier of assets/fashion_classifier (in Inception's place)"
PROXY = "dual encoder of assets/dual_encoder (a proxy for CLIP)"


class AlexNetFeatures(nn.Module):
    """Mean over positions of AlexNet's fifth ReLU, [N, 256], from uint8 images [N, 3, H, W].

    Images are resized bilinearly to 112 px and normalised as in LPIPS, by ImageNet's mean and deviation. The module
    also serves torchmetrics: `FrechetInceptionDistance(feature=AlexNetFeatures())`.
    """

    num_features = 256  # read by torchmetrics
    size = 112

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)
        self.load_state_dict(load_file(verified("assets/alexnet/alexnet.safetensors")))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.features(self.prepared(images)).mean((2, 3))

    def prepared(self, images: Tensor) -> Tensor:
        # antialiased: the same as plain bilinear when enlarging 32 px, and right when reducing 768 px
        resized = interpolate(images.float(), (self.size, self.size), mode="bilinear", antialias=True)
        return (resized / 127.5 - 1 - self.shift) / self.scale


def channels_first(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> uint8 tensor [N, 3, H, W]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@lru_cache(maxsize=1)
def alexnet() -> AlexNetFeatures:
    return AlexNetFeatures()


@torch.no_grad()
def image_features(images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """AlexNet features, float64 [N, 256]: what FID-AlexNet and KID-AlexNet are computed from."""
    network = alexnet()
    return torch.cat([network(batch).double() for batch in channels_first(images).split(batch_size)]).numpy()


@torch.no_grad()
def spatial_features(images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """The first 7 channels of AlexNet's third ReLU, float64 [N, 252]: for sFID, as ADM takes 7 of Inception's."""
    network = alexnet()
    early = network.features[:8]
    batches = channels_first(images).split(batch_size)
    return torch.cat([early(network.prepared(batch))[:, :7].flatten(1).double() for batch in batches]).numpy()


@lru_cache(maxsize=1)
def fashion_classifier() -> FashionClassifier:
    classifier = FashionClassifier()
    classifier.load_state_dict(load_file(verified("assets/fashion_classifier/model.safetensors")))
    return classifier.eval().requires_grad_(False)


@torch.no_grad()
def classify(images: np.ndarray, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities [N, 10] and features [N, 96] of the embedded classifier, float64."""
    outputs = [fashion_classifier()(batch) for batch in channels_first(images).split(batch_size)]
    logits, features = (torch.cat(parts).double() for parts in zip(*outputs, strict=True))
    return logits.softmax(1).numpy(), features.numpy()


def class_features(images: np.ndarray) -> np.ndarray:
    """The features [N, 96] of `classify`."""
    return classify(images)[1]


@lru_cache(maxsize=1)
def dual_encoder() -> tuple[CLIPModel, CLIPTokenizer]:
    model = CLIPModel.from_pretrained(verified("assets/dual_encoder"), dtype=torch.float32).eval().requires_grad_(False)
    return model, CLIPTokenizer.from_pretrained(verified("assets/tiny_sd/tokenizer"))


@torch.no_grad()
def image_embeddings(images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Unit vectors [N, D] of the proxy's image tower."""
    model, _ = dual_encoder()
    size = model.config.vision_config.image_size
    pixels = interpolate(channels_first(images).float(), (size, size), mode="bilinear", antialias=True) / 127.5 - 1
    towers = [model.vision_model(pixel_values=batch).pooler_output for batch in pixels.split(batch_size)]
    return normalize(model.visual_projection(torch.cat(towers)), dim=-1).numpy()


@torch.no_grad()
def text_embeddings(captions: list[str], batch_size: int = 256) -> np.ndarray:
    """Unit vectors [N, D] of the proxy's text tower."""
    model, tokenizer = dual_encoder()
    ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    towers = [model.text_model(input_ids=batch).pooler_output for batch in ids.split(batch_size)]
    return normalize(model.text_projection(torch.cat(towers)), dim=-1).numpy()
