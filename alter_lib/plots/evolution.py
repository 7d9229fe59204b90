"""How masks and routing changed while they were learned, from the record of plan_history.npz."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import FigureBase

from ..plan import ExpertPlan
from ..training.plan_history import PlanHistory
from .plans import masks
from .style import BLUE, INK, ORANGE, WIDTH, axes, canvas, expert_colors, panels, styled
from .training import curve, mark_end, ratios


@styled
def mask_evolution(history: PlanHistory, like: ExpertPlan, ax: Sequence[Axes] | None = None) -> np.ndarray:
    """Masks [experts x layers] at up to six recorded steps, dark where a layer runs; a title gives step and ratio.

    like: a plan of the run, for its costs. ax: one an instant, in order of the steps.
    """
    count = len(ax) if ax is not None else min(6, len(history.steps))
    ax = panels(ax, -(-count // 3), min(3, count), 1.65 * -(-count // 3) + 0.2, sharex=True, sharey=True)
    chosen = np.unique(np.linspace(0, len(history.steps) - 1, count).round().astype(int))
    for each, index in zip(ax, chosen, strict=False):
        shown = history.masks[index]
        each.imshow(shown, cmap=ListedColormap(["white", BLUE]), vmin=0, vmax=1, aspect="auto", interpolation="none")
        each.set_title(f"step {history.steps[index]}: {history.plan(index, like).macs_ratio():.1%} of the MACs")
        each.set(xticks=[0, shown.shape[1] - 1], yticks=[0, shown.shape[0] - 1])
        each.spines[:].set_visible(True)
    for unused in ax[len(chosen) :]:
        unused.set_visible(False)
    ax[0].figure.supxlabel("prunable layer, in order of execution (blue: runs)", fontsize=9)
    ax[0].figure.supylabel("expert", fontsize=9)
    return ax


@styled
def routing_evolution(history: PlanHistory, ax: Axes | None = None) -> Axes:
    """The expert of each timestep (upwards: 0 image, T-1 noise) over the steps of training, a colour an expert."""
    ax = axes(ax, 2.9)
    num_experts, num_timesteps = history.masks.shape[1], history.routing.shape[1]
    colors = ListedColormap(expert_colors(num_experts))
    norm = BoundaryNorm(np.arange(num_experts + 1) - 0.5, num_experts)
    steps, gap = history.steps, np.diff(history.steps).max(initial=1)
    image = ax.pcolormesh(
        np.append(steps, steps[-1] + gap) - 0.5, np.arange(num_timesteps + 1), history.routing.T,
        cmap=colors, norm=norm, rasterized=True,
    )  # fmt: skip
    ax.set(xlabel="training step", ylabel="timestep t (0: image)")
    bar = ax.figure.colorbar(image, ax=ax, ticks=range(num_experts), pad=0.01, fraction=0.04, label="expert")
    bar.ax.tick_params(length=0)
    ax.set_title("Routing while it was learned")
    return ax


@styled
def dashboard(
    history: pd.DataFrame, plan: ExpertPlan, plan_history: PlanHistory, end: int, title: str, ax: Axes | None = None
) -> FigureBase:
    """What one watches while training: both losses, the ratios, the plan of now, and how its routing came about.

    history: the rows of history.csv so far; end: T_end; title: how far the run is.
    """
    figure = canvas(ax, WIDTH, 5.6)
    above, below = figure.subfigures(2, 1, height_ratios=(2.2, 3.4))
    loss, hyper, ratio = above.subplots(1, 3)
    curve(loss, history, "L_U", BLUE)
    loss.set(yscale="log", xlabel="step")
    loss.set_title("$L_U$: backbone")
    curve(hyper, history, "L_H", ORANGE)
    hyper.set_xlabel("step")
    hyper.set_title("$L_H$: hypernetwork")
    ratios(ratio, history, plan.target_ratio)
    ratio.set_xlabel("step")
    for each in (loss, hyper, ratio):
        each.grid()
        if history.step.iloc[-1] > end:
            mark_end(each, end)
    left, right = below.subplots(1, 2, width_ratios=(3, 2))
    masks(plan, left, stagger=True)
    left.set_title("Masks now (blank: skipped)")
    routing_evolution(plan_history, right)
    figure.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
    return figure
