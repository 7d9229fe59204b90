"""H_Phi: the expert generator and the temporal router (paper §3.2, B.1, Tables 5 and 6)."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from . import estimators

if TYPE_CHECKING:
    from .backbones import Backbone
    from .plan import ExpertPlan

CERTAIN = 1e4  # a logit that no Gumbel variable of float32 overturns


class Decisions(NamedTuple):
    """masks [N_e, N_L] and routing [T, N_e] (rows one-hot, or soft), both differentiable."""

    masks: torch.Tensor
    routing: torch.Tensor

    def at(self, timesteps: torch.Tensor) -> torch.Tensor:
        """m_t = s_t M for a batch of timesteps [B]: [B, N_L]."""
        return self.routing[timesteps] @ self.masks


def two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear -> LayerNorm -> ReLU -> Linear without bias (Tables 5 and 6)."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, outputs, bias=False)
    )


class ExpertGenerator(nn.Module):
    """Z [N_e, N_L, D_input], orthogonal and frozen -> mask logits [N_e, N_L] (Table 5).

    Each expert's [N_L, D_input] is made orthogonal by itself, so that every layer has a unit vector. Orthogonal over
    the flattened [N_e, N_L D_input], vectors of length 0.17 drown in the first bias: the logits of all layers
    deviate by 0.08, move together, and the ratio swings between nearly all on and too few (docs/errata.md).

    inputs: `per_expert` as said, or `shared`: the sum of a vector of the layer and one of the expert, all orthogonal,
    so that what one expert finds out about a layer is at once known to the others.
    """

    def __init__(
        self,
        num_experts: int,
        num_layers: int,
        input_dim: int = 64,
        hidden_dim: int = 256,
        inputs: str = "per_expert",
    ) -> None:
        super().__init__()
        if inputs == "shared":
            rows = nn.init.orthogonal_(torch.empty(num_experts + num_layers, input_dim))
            self.register_buffer("z", (rows[:num_experts, None] + rows[num_experts:]) / 2**0.5)
        else:
            experts = [nn.init.orthogonal_(torch.empty(num_layers, input_dim)) for _ in range(num_experts)]
            self.register_buffer("z", torch.stack(experts))
        self.net = two_layers(input_dim, hidden_dim, 1)

    def forward(self) -> torch.Tensor:
        return self.net(self.z).squeeze(-1)


class TemporalRouter(nn.Module):
    """e_t [T, D_emb] -> routing logits [T, N_e] (Table 6)."""

    def __init__(self, timestep_embed_dim: int, num_experts: int, hidden_dim: int = 64) -> None:
        super().__init__()
        self.net = two_layers(timestep_embed_dim, hidden_dim, num_experts)

    def forward(self, e_t: torch.Tensor) -> torch.Tensor:
        return self.net(e_t)


class EqualIntervals(nn.Module):
    """Routing logits [T, N_e] of the Manual variant (paper Table 3): expert i serves the i-th of N_e equal intervals,
    whatever the noise; nothing is learned."""

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts

    def forward(self, e_t: torch.Tensor) -> torch.Tensor:
        return CERTAIN * nn.functional.one_hot(equal_intervals(len(e_t), self.num_experts)).to(e_t)


def equal_intervals(num_timesteps: int, num_experts: int) -> torch.Tensor:
    """Routing [T]: equal intervals of timesteps, one an expert."""
    return torch.arange(num_timesteps) * num_experts // num_timesteps


class Hypernetwork(nn.Module):
    """Expert generator and temporal router with their sampling constants (paper B.3).

    Args:
        num_experts: N_e. num_layers: N_L. timestep_embed_dim: D_emb of the router's input.
        estimator: `straight_through` (B.3: hard forward) or `soft` (B.2, B.4: relaxed masks).
        noise: `gumbel` as printed, or `logistic`, the exact binary Concrete.
        inputs: of the expert generator, `per_expert` or `shared`.
        router: `learned`, or `intervals` (Table 3's Manual). num_experts = 1 is Table 3's Static.
    """

    def __init__(
        self,
        num_experts: int,
        num_layers: int,
        timestep_embed_dim: int,
        *,
        input_dim: int = 64,
        expert_hidden_dim: int = 256,
        router_hidden_dim: int = 64,
        estimator: str = "straight_through",
        noise: str = "gumbel",
        mask_temperature: float = 0.4,
        mask_offset: float = 4.0,
        router_temperature: float = 0.4,
        router_offset: float = 0.0,
        router: str = "learned",
        inputs: str = "per_expert",
    ) -> None:
        super().__init__()
        self.generator = ExpertGenerator(num_experts, num_layers, input_dim, expert_hidden_dim, inputs)
        learned = router == "learned"
        self.router = (
            TemporalRouter(timestep_embed_dim, num_experts, router_hidden_dim)
            if learned
            else EqualIntervals(num_experts)
        )
        self.estimator, self.noise = estimator, noise
        self.mask_temperature, self.mask_offset = mask_temperature, mask_offset
        self.router_temperature, self.router_offset = router_temperature, router_offset

    def sample(self, e_t: torch.Tensor, random: torch.Generator | None = None) -> Decisions:
        """Training mode: one Gumbel draw [N_e, N_L] and one [T, N_e], shared by the batch. e_t: [T, D_emb]."""
        y = estimators.relaxed_masks(self.generator(), self.mask_temperature, self.mask_offset, self.noise, random)
        s = estimators.relaxed_routing(self.router(e_t), self.router_temperature, self.router_offset, True, random)
        if self.estimator == "soft":
            return Decisions(y, s)
        return Decisions(
            estimators.straight_through(estimators.binary(y), y), estimators.straight_through(estimators.one_hot(s), s)
        )

    def evaluate(self, e_t: torch.Tensor, gradient: str = "sigmoid") -> Decisions:
        """Evaluation mode: no noise, round and argmax; hard values that carry a gradient for L_ratio.

        gradient: `sigmoid`, the estimator's own slope (about 1e-4 at offset 4, temperature 0.4: gates hardly move), or
        `identity` in the logits.
        """
        logits = self.generator()
        y = estimators.relaxed_masks(logits, self.mask_temperature, self.mask_offset, None)
        s = estimators.relaxed_routing(self.router(e_t), self.router_temperature, self.router_offset, False)
        return Decisions(
            estimators.straight_through(estimators.binary(y), logits if gradient == "identity" else y),
            estimators.straight_through(estimators.one_hot(s), s),
        )

    def plan(self, backbone: "Backbone", e_t: torch.Tensor | None = None, **details: object) -> "ExpertPlan":
        """The two tables that are left at inference: masks [N_e, N_L] and timestep -> expert [T].

        e_t: the router's frozen input [T, D_emb]; by default the backbone's own embedded timesteps. details:
        target_ratio, denominator, provenance of `ExpertPlan.for_backbone`.
        """
        from .plan import ExpertPlan

        with torch.no_grad():
            masks, routing = self.evaluate(backbone.timestep_embeddings() if e_t is None else e_t)
        return ExpertPlan.for_backbone(backbone, masks.cpu().bool(), routing.argmax(-1).cpu(), **details)
