"""Figures of the hypernetwork before it is trained: keep probability, gradients, and what the ratio loss steers."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .style import BLUE, GREEN, INK, MUTED, ORANGE, RED, axes, panels, styled


@styled
def sampling_constants(closed: pd.DataFrame, ax: Sequence[Axes] | None = None) -> np.ndarray:
    """What offset and temperature of B.3 do. closed: of `studies.closed_forms`; ax: two."""
    ax = panels(ax, 1, 2, 2.9)
    noises = {"gumbel": "-", "logistic": "--"}
    offsets = dict(zip(sorted(closed.offset.unique()), (ORANGE, BLUE, GREEN), strict=False))
    for (noise, offset), curve in closed.groupby(["noise", "offset"]):
        one = curve[curve.temperature == curve.temperature.iloc[0]]
        ax[0].plot(one.logit, one.keep, noises[noise], color=offsets[offset], label=f"{noise}, offset {offset:g}")
    ax[0].set(xlabel="logit L", ylabel="P(mask = 1)", ylim=(-0.02, 1.05))
    ax[0].set_title("Keep probability: the offset moves it,\nthe temperature does not")
    top = closed[(closed.offset == closed.offset.max()) & (closed.noise == "gumbel")]
    for color, (temperature, curve) in zip((GREEN, BLUE, RED), top.groupby("temperature"), strict=False):
        ax[1].semilogy(curve.logit, curve.slope, color=color, label=f"sigmoid, temperature {temperature:g}")
    ax[1].axhline(1, color=INK, linestyle="--", label="identity")
    ax[1].set(xlabel="logit L", ylabel="d mask / d L", ylim=(1e-9, 20))
    ax[1].set_title(
        f"Slope of a noise-free mask at offset {closed.offset.max():g}:\nhardly any where training starts (L = 0)"
    )
    for each in ax:
        each.axvline(0, color=MUTED, linewidth=0.8)
        each.grid()
        each.legend(loc="best")
    return ax


@styled
def estimator_gradients(measured: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Gradients of E[mask] in the logit. measured: of `studies.estimator_gradients`."""
    ax = axes(ax, 2.9)
    ax.plot(measured.logit, measured.true, color=INK, linestyle="--", label="true: d P(mask = 1) / d L")
    ax.plot(measured.logit, measured.closed, color=BLUE, label="E[d y / d L] by quadrature")
    ax.errorbar(measured.logit, measured["mean"], 1.96 * measured.error, color=ORANGE, fmt="o", markersize=3.5,
                label=f"autograd through the estimator, {measured.attrs['draws']} draws, 95 %")  # fmt: skip
    ax.set(xlabel="logit L", ylabel="gradient")
    ax.set_title(
        f"Straight-through {measured.attrs['noise']}-sigmoid: smoothed by the temperature, so biased, never wrong in sign"
    )
    ax.grid()
    ax.legend()
    return ax


@styled
def ratio_trials(trials: Mapping[str, pd.DataFrame], target: float, ax: Axes | None = None) -> Axes:
    """What L_ratio steers when nothing else pulls. trials: {recipe: frame of `studies.ratio_trial`}."""
    ax = axes(ax, 3.1)
    for color, (recipe, trial) in zip((ORANGE, RED, BLUE), trials.items(), strict=False):
        ax.plot(trial.step, 100 * trial.sampled_ratio, ":", color=color, linewidth=1.1)
        ax.plot(trial.step, 100 * trial.ratio, color=color, label=f"{recipe}: plan ends at {trial.ratio.iloc[-1]:.1%}")
    ax.axhline(100 * target, color=MUTED, linestyle="--", label=f"target {target:.0%}")
    ax.set(xlabel="update of the hypernetwork by L_ratio alone", ylabel="active MACs, %")
    ax.set_title("Which ratio reaches the target? (solid: noise-free masks = the plan; dotted: sampled masks)")
    ax.grid(axis="y")
    ax.legend()
    return ax
