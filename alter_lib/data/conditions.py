"""What a sample is conditioned on: one of its captions or its class label, dropped in a share of the draws."""

from collections.abc import Callable, Sequence

import torch
from diffusers import StableDiffusionPipeline

from .encode import encode_text


class TextConditions:
    """Captions of each image, their states from the pipeline's text encoder; the dropped condition is ""."""

    def __init__(self, pipeline: StableDiffusionPipeline, captions: Sequence[list[str]], cache: bool) -> None:
        self.pipeline, self.captions, self.states = pipeline, captions, None
        if cache:
            flat = ["", *dict.fromkeys(caption for row in captions for caption in row)]
            self.states = dict(zip(flat, encode_text(pipeline, flat), strict=True))

    def draw(self, index: int, dropout: float, random: torch.Generator) -> str:
        """One of the image's captions, or "" in a `dropout` share of the draws."""
        row = self.captions[index]
        caption = row[int(torch.randint(len(row), (), generator=random))]
        return "" if torch.rand((), generator=random) < dropout else caption

    def encode(self, captions: list[str]) -> torch.Tensor:
        """[n, tokens, D]."""
        if self.states is None:
            return encode_text(self.pipeline, captions)
        return torch.stack([self.states[caption] for caption in captions])


class CachedTextConditions:
    """The same draws, where the states of all captions lie in a cache: `counts` captions of each image, `state(index,
    number)` [tokens, D] of one of them."""

    def __init__(
        self, pipeline: StableDiffusionPipeline, counts: Sequence[int], state: Callable[[int, int], torch.Tensor]
    ) -> None:
        self.counts, self.state = counts, state
        self.empty = encode_text(pipeline, [""])[0].float()

    def draw(self, index: int, dropout: float, random: torch.Generator) -> tuple[int, int] | None:
        """(image, number of its caption), or None in a `dropout` share of the draws."""
        number = int(torch.randint(int(self.counts[index]), (), generator=random))
        return None if torch.rand((), generator=random) < dropout else (index, number)

    def encode(self, drawn: list[tuple[int, int] | None]) -> torch.Tensor:
        """[n, tokens, D], float32."""
        return torch.stack([self.empty if one is None else self.state(*one).float() for one in drawn])


class ClassConditions:
    """The class label of each image; the dropped condition is the label after the last one (DiT-XL/2: 1000)."""

    def __init__(self, labels: Sequence[int], null: int) -> None:
        self.labels, self.null = labels, null

    def draw(self, index: int, dropout: float, random: torch.Generator) -> int:
        """The image's label, or the null label in a `dropout` share of the draws."""
        return self.null if torch.rand((), generator=random) < dropout else int(self.labels[index])

    def encode(self, labels: list[int]) -> torch.Tensor:
        """[n], int64."""
        return torch.tensor(labels)
