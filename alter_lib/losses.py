"""The losses of the paper's §3.3 and B.2. Every one returns a scalar; the reductions are stated here once.

`mean`: over the elements of a tensor (batch, channels, positions); `sum`: squared norm per sample, mean over the batch.
L_featKD sums over its blocks in both. The paper prints squared norms and does not say how they are reduced.
"""

import math

import torch


def wide(x: torch.Tensor) -> torch.Tensor:
    """`x` in float32, or in float64 where it is that already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def squared_error(a: torch.Tensor, b: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """||a - b||^2, reduced as said above; in float32 at least."""
    error = (wide(a) - wide(b)).square()
    return error.mean() if reduction == "mean" else error.flatten(1).sum(1).mean()


def sample_errors(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """||a - b||^2 of each sample, mean over its elements: [B], on the CPU."""
    return (wide(a) - wide(b)).square().flatten(1).mean(1).cpu()


def interval_means(errors: torch.Tensor, interval: torch.Tensor, num_intervals: int) -> torch.Tensor:
    """[N_i, ...]: mean over the samples of each interval; errors [samples, ...], interval [samples] of 0..N_i-1.

    The samples' timesteps decide how many an interval has: spread them evenly.
    """
    sums = torch.zeros(num_intervals, *errors.shape[1:]).index_add_(0, interval, errors)
    return sums / interval.bincount(minlength=num_intervals).view(-1, *[1] * (errors.ndim - 1))


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


def ramped_target(target: float, step: int, ramp_steps: float) -> float:
    """p at `step` (counted from 0): from 1 down to `target` in equal steps, then `target`.

    L_ratio pushes all logits down together, those of layers that matter too. Under a target that falls slowly, L_perf
    has the time to hold these up before the budget is met.
    """
    return target if step >= ramp_steps else 1 + (target - 1) * step / ramp_steps


def balance_loss(router_logits: torch.Tensor) -> torch.Tensor:
    """L_balance = N_e sum_i F_i P_i over all T timesteps; router_logits [T, N_e] (B.2, the Switch Transformer's form).

    F_i: share of the timesteps whose largest logit is i (no gradient); P_i: mean softmax probability of i. 1 when even.
    """
    num_experts = router_logits.shape[-1]
    f = torch.bincount(router_logits.argmax(-1), minlength=num_experts).to(router_logits) / len(router_logits)
    return num_experts * (f * router_logits.softmax(-1).mean(0)).sum()


def variational_bound(
    epsilon: torch.Tensor,
    variance: torch.Tensor,
    x_0: torch.Tensor,
    x_t: torch.Tensor,
    timesteps: torch.Tensor,
    alphas_cumprod: torch.Tensor,
) -> torch.Tensor:
    """L_vlb of a learned variance, in bits a dimension, mean over the batch: what DiT adds to the epsilon MSE.

    KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), and at t = 0 the negative log-likelihood of x_0 in bins of 1 / 127.5
    (Nichol & Dhariwal 2021, Eqs. 4, 15). `variance` [B, C, h, w] in [-1, 1] mixes log beta_t and log beta~_t; pass
    `epsilon` detached, so that the bound trains the variance alone.
    """

    def column(values: torch.Tensor) -> torch.Tensor:
        return values.to(x_t.device, x_t.dtype)[timesteps].view(-1, *[1] * (x_t.ndim - 1))

    a_bar = alphas_cumprod.double()
    a_bar_previous = torch.cat([a_bar.new_ones(1), a_bar[:-1]])
    beta = 1 - a_bar / a_bar_previous
    posterior = beta * (1 - a_bar_previous) / (1 - a_bar)
    posterior_log = torch.cat([posterior[1:2], posterior[1:]]).log()  # beta~_0 is 0
    of_x_0 = beta * a_bar_previous.sqrt() / (1 - a_bar)
    of_x_t = (1 - a_bar_previous) * (1 - beta).sqrt() / (1 - a_bar)
    x_0_found = (x_t - column((1 - a_bar).sqrt()) * epsilon) / column(a_bar.sqrt())
    mean = column(of_x_0) * x_0_found + column(of_x_t) * x_t
    share = (variance + 1) / 2
    log_variance = share * column(beta.log()) + (1 - share) * column(posterior_log)
    true_mean, true_log = column(of_x_0) * x_0 + column(of_x_t) * x_t, column(posterior_log)
    apart = (true_mean - mean).square()
    kl = 0.5 * (log_variance - true_log - 1 + (true_log - log_variance).exp() + apart * (-log_variance).exp())
    bound = torch.where(timesteps.view(-1, *[1] * (x_t.ndim - 1)) == 0, bin_nll(x_0, mean, log_variance), kl)
    return bound.mean() / math.log(2)


def bin_nll(x: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """-log of a Gaussian's mass in the bin x +- 1/255, in nats; the outermost bins reach to infinity."""
    gaussian = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    upper = torch.where(x > 0.999, 1.0, gaussian.cdf(x + 1 / 255))
    lower = torch.where(x < -0.999, 0.0, gaussian.cdf(x - 1 / 255))
    return -(upper - lower).clamp(min=1e-12).log()
