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
    highest = closed.offset.max()
    top = closed[(closed.offset == highest) & (closed.noise == "gumbel")]
    for color, (temperature, curve) in zip((GREEN, BLUE, RED), top.groupby("temperature"), strict=False):
        known = curve[curve.slope > 1e-15]  # below it rounding makes the slope 0
        ax[1].semilogy(known.logit, known.slope, color=color, label=f"sigmoid, temperature {temperature:g}")
    ax[1].axhline(1, color=INK, linestyle="--", label="identity")
    ax[1].set(xlabel="logit L", ylabel="d mask / d L", ylim=(1e-18, 20))  # room for the legend
    ax[1].set_title(f"Slope of a noise-free mask at offset {highest:g}:\nhardly any where training starts (L = 0)")
    for each in ax:
        each.axvline(0, color=MUTED, linewidth=0.8)
        each.grid()
    ax[0].legend(loc="lower right")
    ax[1].legend(loc="lower center", bbox_to_anchor=(0.36, 0), framealpha=0.85, frameon=True, edgecolor="none")
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
    ax.set_title(f"Straight-through {measured.attrs['noise']}-sigmoid: biased by the temperature, never wrong in sign")
    ax.grid()
    ax.legend()
    return ax


@styled
def ratio_trials(trials: Mapping[str, pd.DataFrame], target: float, ax: Sequence[Axes] | None = None) -> np.ndarray:
    """What L_ratio steers when nothing else pulls, a panel a recipe.

    trials: {recipe: frame of `studies.ratio_trial`}; ax: one each.
    """
    ax = panels(ax, 1, len(trials), 2.9, sharey=True)
    for each, (recipe, trial) in zip(ax, trials.items(), strict=True):
        each.plot(trial.step, 100 * trial.sampled_ratio, color=ORANGE, linewidth=0.9, label="sampled masks")
        each.plot(trial.step, 100 * trial.ratio, color=BLUE, label="noise-free masks: the plan")
        each.axhline(100 * target, color=INK, linestyle="--", linewidth=1, label=f"target {target:.0%}")
        last = trial.tail(max(1, len(trial) // 10))
        each.set_title(recipe, fontsize=9)
        each.text(0.03, 0.03, f"last tenth: plan {last.ratio.mean():.1%}, sampled {last.sampled_ratio.mean():.1%}\n"
                  f"rms gradient in L at the start: {trial.gradient.head(5).mean():.1g}", transform=each.transAxes,
                  fontsize=7.5, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8})  # fmt: skip
        each.set_xlabel("update by L_ratio alone")
        each.set_ylim(0, 103)
        each.grid(axis="y")
    ax[0].set_ylabel("active MACs, %")
    ax[0].figure.legend(*ax[0].get_legend_handles_labels(), ncols=3, loc="outside lower center")
    return ax
