"""Training curves (paper Fig. 5) from history.csv."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .style import BLUE, GREEN, MUTED, ORANGE, PALETTE, PINK, RED, axes, panels, styled

LOSSES = {
    "L_U": "(a) $L_U$: backbone",
    "L_H": "(b) $L_H$: hypernetwork",
    "L_balance": "(c) $L_{balance}$",
    "L_ratio": "(d) $L_{ratio}$",
}
DASHES = ("-", "--", "-.", (0, (1, 1)))


def smoothed(values: pd.Series) -> pd.Series:
    """A running mean over a twentieth of the steps: losses of single batches at random timesteps are noisy."""
    return values.rolling(max(1, len(values) // 20), min_periods=1, center=True).mean()


def curve(ax: Axes, history: pd.DataFrame, column: str, color: str, label: str | None = None) -> None:
    """One column over the steps, smoothed, with the single steps faintly behind it; empty cells are left out."""
    known = history[["step", column]].dropna()
    ax.plot(known.step, known[column], color=color, alpha=0.2, linewidth=0.7)
    ax.plot(known.step, smoothed(known[column]), color=color, label=label)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def mark_end(ax: Axes, end: int) -> None:
    """A line at T_end, after which only theta is trained; beside a legend it is named in the other panels alone."""
    ax.axvline(end, color=MUTED, linestyle=":", linewidth=1)
    if ax.get_legend():
        return
    ax.annotate("$T_{end}$", (end, 0), (2, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
                va="bottom", color=MUTED, fontsize=8)  # fmt: skip


@styled
def training_curves(history: pd.DataFrame, target: float, end: int, ax: Sequence[Axes] | None = None) -> np.ndarray:
    """Fig. 5(a)-(d) L_U, L_H, L_balance, L_ratio, then the ratios and the terms of L_U. ax: six.

    history: rows of history.csv; target: p; end: T_end.
    """
    ax = panels(ax, 2, 3, 4.6)
    for each, (column, name), color in zip(ax, LOSSES.items(), (BLUE, ORANGE, GREEN, PINK), strict=False):
        curve(each, history, column, color)
        each.set_title(name)
    ax[0].set_yscale("log")
    ratios(ax[4], history, target)
    for column, name, color in (
        ("L_featKD", "features", GREEN),
        ("L_outKD", "output", BLUE),
        ("L_denoise", "denoising", RED),
    ):
        curve(ax[5], history, column, color, name)
    ax[5].set(yscale="log")
    ax[5].set_title("terms of $L_U$, unweighted")
    ax[5].legend()
    for each in ax:
        each.grid()
        each.set_xlabel("step")
        mark_end(each, end)
    return ax


def ratios(ax: Axes, history: pd.DataFrame, target: float) -> None:
    ax.plot(history.step, history.ratio, color=BLUE, label="plan")
    known = history.dropna(subset="sampled_ratio")
    ax.plot(known.step, known.sampled_ratio, color=ORANGE, linewidth=0.8, label="sampled masks")
    ax.axhline(target, color=MUTED, linestyle="--", linewidth=1, label=f"target {target:g}")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_title("active share of the MACs")
    ax.legend()


@styled
def loss_comparison(
    histories: Mapping[str, pd.DataFrame], ends: Mapping[str, int] | None = None, ax: Sequence[Axes] | None = None
) -> np.ndarray:
    """Fig. 5(a)-(d) of several runs on the same axes: L_U, L_H, L_balance, L_ratio; a colour and a dash a run. ax: 4.

    histories: {label: rows of history.csv}; ends: {label: T_end}, marked where given.
    """
    ax = panels(ax, 2, 2, 4.6)
    for number, (label, history) in enumerate(histories.items()):
        look = {"color": PALETTE[number % len(PALETTE)], "linestyle": DASHES[number % len(DASHES)]}
        for each, column in zip(ax, LOSSES, strict=True):
            known = history[["step", column]].dropna()
            each.plot(known.step, smoothed(known[column]), label=label, **look)
            if ends and label in ends:
                each.axvline(ends[label], color=look["color"], linestyle=":", linewidth=0.9)
    for each, name in zip(ax, LOSSES.values(), strict=True):
        each.set_title(name)
        each.set_xlabel("step")
        each.grid()
    ax[0].set_yscale("log")
    ax[0].legend()
    return ax


@styled
def throughput(history: pd.DataFrame, end: int, ax: Axes | None = None) -> Axes:
    """Images a second of both phases: sub-batches save the pruned share of the work."""
    ax = axes(ax, 2.2)
    ax.plot(history.step, history.images_per_second, color=BLUE, alpha=0.2, linewidth=0.7)
    ax.plot(history.step, smoothed(history.images_per_second), color=BLUE)
    ax.set(xlabel="step", ylabel="images / s", ylim=(0, None))
    speeds = history.groupby("phase").images_per_second.median()
    names = {"joint": "with the hypernetwork", "hypernetwork": "of the hypernetwork alone", "backbone": "after it"}
    parts = [f"{speeds[phase]:.0f} images/s {name}" for phase, name in names.items() if phase in speeds]
    ax.set_title(f"Throughput: {', '.join(parts)} (medians)")
    ax.grid()
    mark_end(ax, end)
    return ax
