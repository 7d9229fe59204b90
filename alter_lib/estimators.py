"""Discrete sampling with gradients (paper B.3): straight-through Gumbel-sigmoid and -softmax, and their variants."""

import torch

NOISES = ("gumbel", "logistic")


def gumbel(shape: torch.Size, generator: torch.Generator | None = None) -> torch.Tensor:
    """g ~ Gumbel(0, 1), drawn on the CPU so that every process and device sees the same."""
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    return -torch.log(-torch.log(uniform)).float()


def relaxed_masks(
    logits: torch.Tensor,
    temperature: float = 0.4,
    offset: float = 4.0,
    noise: str | None = "gumbel",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """y = sigmoid((L + g + b_g) / tau_g), same shape as the logits [N_e, N_L] (paper B.3).

    noise: `gumbel` (one variable, as printed), `logistic` (the difference of two: the exact binary Concrete) or None
    (evaluation mode).
    """
    g = torch.zeros_like(logits)
    if noise is not None:
        g = gumbel(logits.shape, generator).to(logits)
    if noise == "logistic":
        g = g - gumbel(logits.shape, generator).to(logits)
    return torch.sigmoid((logits + g + offset) / temperature)


def relaxed_routing(
    logits: torch.Tensor,
    temperature: float = 0.4,
    offset: float = 0.0,
    noise: bool = True,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """y = softmax((L + G + b_r) / tau_r) over the experts, [T, N_e] (paper B.3)."""
    g = gumbel(logits.shape, generator).to(logits) if noise else 0.0
    return torch.softmax((logits + g + offset) / temperature, dim=-1)


def straight_through(hard: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
    """Forward: exactly `hard`; backward: the gradient of `soft`."""
    return hard.detach() + (soft - soft.detach())


def binary(y: torch.Tensor) -> torch.Tensor:
    """round(y) with y = 0.5 kept on, as the plan's rule `logit + offset >= 0`."""
    return (y >= 0.5).to(y)


def one_hot(y: torch.Tensor) -> torch.Tensor:
    """one-hot(argmax y) over the last dimension."""
    return torch.zeros_like(y).scatter_(-1, y.argmax(-1, keepdim=True), 1.0)
