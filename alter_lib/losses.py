"""The losses of the paper's §3.3 and B.2. Every one returns a scalar; the reductions are stated here once.

`mean`: over the elements of a tensor (batch, channels, positions); `sum`: squared norm per sample, mean over the batch.
L_featKD sums over its blocks in both. The paper prints squared norms and does not say how they are reduced.
"""

import torch


def squared_error(a: torch.Tensor, b: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """||a - b||^2, reduced as said above; in float32."""
    error = (a.float() - b.float()).square()
    return error.mean() if reduction == "mean" else error.flatten(1).sum(1).mean()


def feature_distillation(
    teacher: list[torch.Tensor], student: list[torch.Tensor], reduction: str = "mean"
) -> torch.Tensor:
    """L_featKD = sum over blocks k of ||f_T^k - f_S^k||^2 (paper §3.3)."""
    return torch.stack([squared_error(t, s, reduction) for t, s in zip(teacher, student, strict=True)]).sum()


def active_share(m: torch.Tensor, layer_macs: torch.Tensor, fixed_macs: float = 0.0) -> torch.Tensor:
    """S(m) per row of m [T, N_L]: the share of MACs that stays active, [T] (paper B.2).

    fixed_macs = 0 gives B.2's share of the prunable layers; the backbone's fixed MACs give the share of the whole
    network, which is what the paper's tables report.
    """
    return (fixed_macs + m @ layer_macs) / (fixed_macs + layer_macs.sum())


def ratio_loss(active: torch.Tensor, target: float, stability: float = 1e-6) -> torch.Tensor:
    """L_ratio = log(max(S, p) / min(S, p)) (B.2, log-ratio matching); S: a scalar, averaged over all T timesteps."""
    return (torch.log(active + stability) - torch.log(torch.as_tensor(target + stability).to(active))).abs()


def balance_loss(router_logits: torch.Tensor) -> torch.Tensor:
    """L_balance = N_e sum_i F_i P_i over all T timesteps; router_logits [T, N_e] (B.2, the Switch Transformer's form).

    F_i: share of the timesteps whose largest logit is i (no gradient); P_i: mean softmax probability of i. 1 when even.
    """
    num_experts = router_logits.shape[-1]
    f = torch.bincount(router_logits.argmax(-1), minlength=num_experts).to(router_logits) / len(router_logits)
    return num_experts * (f * router_logits.softmax(-1).mean(0)).sum()
