"""The classifier of the embedded class-conditional data: in Inception's place for DiT's figures (Table 4)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


class FashionClassifier(nn.Module):
    """Logits [N, 10] and the features before them [N, 96] of pictures uint8 [N, 3, H, W], seen in grey at 32 px."""

    num_features = 96

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        widths = (1, 16, 48, self.num_features)
        self.blocks = nn.Sequential(*(block(a, b) for a, b in zip(widths, widths[1:], strict=False)))
        self.head = nn.Linear(self.num_features, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        grey = images.float().mean(1, keepdim=True) / 127.5 - 1
        resized = interpolate(grey, (32, 32), mode="bilinear", antialias=True)
        features = self.blocks(resized).mean((2, 3))
        return self.head(features), features


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 x 3 convolutions with batch normalisation; the first halves the resolution."""
    layers: list[nn.Module] = []
    for a, b, stride in ((inputs, outputs, 2), (outputs, outputs, 1)):
        layers += [nn.Conv2d(a, b, 3, stride, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers)


@torch.no_grad()
def accuracy(classifier: FashionClassifier, images: Tensor, labels: Tensor) -> float:
    """Share of pictures [N, 3, H, W] whose largest logit is their label's."""
    hits = [classifier(x)[0].argmax(1) == y for x, y in zip(images.split(256), labels.split(256), strict=True)]
    return torch.cat(hits).float().mean().item()
