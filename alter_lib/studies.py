"""What the sampling constants and estimators of B.3 do, and what the ratio loss steers: small studies, no denoiser.

Each returns a data frame; notebook 02 shows them.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from diffusers.optimization import get_scheduler
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from tqdm.auto import tqdm

from . import estimators, losses
from .backbones import Backbone
from .hypernetwork import Hypernetwork
from .params import Params
from .plan.costs import CostTable


def keep_probability(logit: np.ndarray, offset: float, noise: str) -> np.ndarray:
    """P(mask = 1) of a sampled mask: P(L + g + b > 0). It holds no temperature.

    Gumbel, as B.3 prints it: 1 - exp(-exp(L + b)); logistic: sigmoid(L + b), which is what "Gumbel-sigmoid" usually
    means.
    """
    shifted = logit + offset
    return -np.expm1(-np.exp(shifted)) if noise == "gumbel" else 1 / (1 + np.exp(-shifted))


def keep_slope(logit: np.ndarray, offset: float, noise: str) -> np.ndarray:
    """d P(mask = 1) / d L: the gradient that an unbiased estimator would have."""
    shifted = logit + offset
    keep = keep_probability(logit, offset, noise)
    return np.exp(shifted - np.exp(shifted)) if noise == "gumbel" else keep * (1 - keep)


def closed_forms(
    offsets: Sequence[float] = (0.0, 4.0), temperatures: Sequence[float] = (0.2, 0.4, 1.0)
) -> pd.DataFrame:
    """Rows (noise, offset, temperature, logit): keep probability, and slope of the noise-free sigmoid in the logit."""
    logit = np.linspace(-10, 6, 161)
    frames = []
    for noise in estimators.NOISES:
        for offset in offsets:
            for temperature in temperatures:
                y = 1 / (1 + np.exp(-(logit + offset) / temperature))
                columns = {"keep": keep_probability(logit, offset, noise), "slope": y * (1 - y) / temperature}
                frames.append(
                    pd.DataFrame(
                        {"noise": noise, "offset": offset, "temperature": temperature, "logit": logit, **columns}
                    )
                )
    return pd.concat(frames, ignore_index=True)


def expected_slope(logit: np.ndarray, offset: float, temperature: float, noise: str) -> np.ndarray:
    """E[d y / d L] over the noise, y = sigmoid((L + g + b) / tau), by quadrature over the noise's density."""
    g = np.linspace(-30, 60, 9001)
    density = np.exp(-g - np.exp(-g)) if noise == "gumbel" else np.exp(-np.abs(g)) / (1 + np.exp(-np.abs(g))) ** 2
    y = 1 / (1 + np.exp(-((logit[:, None] + g + offset) / temperature).clip(-60, 60)))
    return np.trapezoid(y * (1 - y) / temperature * density, g, axis=1)


def estimator_gradients(params: Params, draws: int = 4000, seed: int = 0) -> pd.DataFrame:
    """Rows by logit: mean and standard error of autograd's gradient through the straight-through estimator, `closed`
    (what its mean should be) and `true` (the slope of the keep probability). Constants of params.hypernetwork."""
    h = params.hypernetwork
    logit = np.linspace(-h.mask_offset - 5, -h.mask_offset + 5, 21)
    values = torch.tensor(logit, dtype=torch.float32).repeat(draws, 1).requires_grad_()
    random = torch.Generator().manual_seed(seed)
    y = estimators.relaxed_masks(values, h.mask_temperature, h.mask_offset, h.noise, random)
    estimators.straight_through(estimators.binary(y), y).sum().backward()
    gradient = values.grad.double().numpy()
    frame = pd.DataFrame({"logit": logit, "mean": gradient.mean(0), "error": gradient.std(0, ddof=1) / draws**0.5})
    frame["closed"] = expected_slope(logit, h.mask_offset, h.mask_temperature, h.noise)
    frame["true"] = keep_slope(logit, h.mask_offset, h.noise)
    frame.attrs.update(draws=draws, noise=h.noise)
    return frame


def hypernetwork(params: Params, backbone: Backbone) -> tuple[Hypernetwork, torch.Tensor]:
    """An untrained hypernetwork for `backbone` by params.hypernetwork, seeded by run.seed; and its input e_t."""
    e_t = backbone.timestep_embeddings(params.hypernetwork.timestep_embedding).cpu()
    outside = {"num_experts", "timestep_embedding", "ratio_masks", "ratio_gradient"}
    options = params.hypernetwork.model_dump(exclude=outside)
    with torch.random.fork_rng():
        torch.manual_seed(params.run.seed)
        return Hypernetwork(params.hypernetwork.num_experts, len(backbone.layers), e_t.shape[1], **options), e_t


def optimization(params: Params, net: Hypernetwork, steps: int) -> tuple[AdamW, LRScheduler]:
    """The run's optimizer and learning rate of the hypernetwork, for a training of `steps`."""
    optimizer = AdamW(net.parameters(), params.training.hypernetwork_learning_rate)
    kind = {"constant": "constant_with_warmup"}.get(params.training.schedule, params.training.schedule)
    warmup = min(params.training.warmup_steps, steps)
    return optimizer, get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=steps)


def ratio_trial(params: Params, backbone: Backbone, steps: int, masks: str, gradient: str = "sigmoid") -> pd.DataFrame:
    """Update the hypernetwork `steps` times by L_ratio alone, at the run's rate and schedule.

    masks: `sampled` (L_ratio on sampled masks, as printed) or `evaluation` (on noise-free ones, with `gradient`).
    Rows: step, ratio (of the plan), sampled_ratio, gradient (root mean square of d L_ratio / d L over the mask logits).
    """
    net, e_t = hypernetwork(params, backbone)
    optimizer, schedule = optimization(params, net, steps)
    table = CostTable.budget_of(backbone, params.cost.denominator)
    costs, fixed = torch.tensor([float(cost) for cost in table.layers]), float(table.always)
    random = torch.Generator().manual_seed(params.run.seed)
    logits: list[torch.Tensor] = []
    net.generator.register_forward_hook(lambda _module, _inputs, output: logits.append(output))

    def update() -> tuple[float, float, float]:
        logits.clear()
        evaluated, sampled = net.evaluate(e_t, gradient), net.sample(e_t, random)
        shares = [losses.active_share(d.routing @ d.masks, costs, fixed).mean() for d in (evaluated, sampled)]
        steered = logits[masks == "sampled"]
        steered.retain_grad()
        losses.ratio_loss(shares[masks == "sampled"], params.loss.target_ratio).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return shares[0].item(), shares[1].item(), steered.grad.square().mean().sqrt().item()

    bar = tqdm(range(1, steps + 1), desc=f"L_ratio on {masks} masks, {gradient}", leave=False)
    return pd.DataFrame([(step, *update()) for step in bar], columns=["step", "ratio", "sampled_ratio", "gradient"])
