"""Figures of an ExpertPlan: masks (paper Fig. 4a), routing (Fig. 4b), MACs, distances and use of the experts."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import FigureBase
from matplotlib.patches import Rectangle

from ..plan import ExpertPlan
from .layers import label_layers
from .style import FAINT, INK, MAP, MUTED, RED, WIDTH, axes, canvas, expert_colors, panels, styled, text_color


def served(plan: ExpertPlan) -> np.ndarray:
    """Share of the timesteps that each expert serves, [N_e]."""
    return plan.routing.bincount(minlength=plan.num_experts).numpy() / plan.num_train_timesteps


@styled
def masks(plan: ExpertPlan, ax: Axes | None = None, stagger: bool = False) -> Axes:
    """The mask picture (Fig. 4a), [experts x layers]: layers that run are shaded by their MACs, skipped ones blank.

    stagger: names of blocks on two lines, for narrow axes.
    """
    ax = axes(ax, 1.35 + 0.24 * plan.num_experts)
    costs = np.array(plan.cost.layers) / plan.cost.total * 100
    shown = np.where(plan.masks.numpy(), costs, np.nan)
    image = ax.imshow(shown, cmap=MAP, norm=Normalize(0, costs.max()), aspect="auto", interpolation="none")
    ax.set_xticks(np.arange(1, plan.masks.shape[1]) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, plan.num_experts) - 0.5, minor=True)
    ax.grid(which="minor", color=FAINT, linewidth=0.6)
    ax.tick_params(which="minor", length=0)
    label_layers(ax, plan.layer_names, stagger=stagger)
    ratios = [macs / plan.cost.whole for macs in plan.expert_macs()]
    names = [f"{i}   {ratio:.0%}" for i, ratio in enumerate(ratios)]
    ax.set_yticks(range(plan.num_experts), names)
    ax.tick_params(axis="y", length=0)
    ax.set_ylabel("expert, its share of the MACs")
    letters = "R residual, T transformer; " if any(".resnets." in name for name in plan.layer_names) else ""
    ax.set_title(f"Masks of the experts over the prunable layers ({letters}blank: skipped)")
    ax.spines[:].set_visible(True)
    ax.figure.colorbar(image, ax=ax, label="% of the network's MACs", pad=0.01, fraction=0.03)
    return ax


@styled
def routing(plan: ExpertPlan, ax: Axes | None = None, visited: Sequence[int] = ()) -> Axes:
    """Timestep -> expert (Fig. 4b). visited: timesteps of a sampler's calls, marked on the axis."""
    ax = axes(ax, 0.9 + 0.2 * plan.num_experts)
    colors = np.array(expert_colors(plan.num_experts))
    experts = plan.routing.numpy()
    ax.scatter(range(len(experts)), experts, s=14, marker="|", c=colors[experts], linewidths=1)
    switches = int((experts[1:] != experts[:-1]).sum())
    timestep_axis(ax, plan, visited)
    names = [f"{i}   {share:.0%}" for i, share in enumerate(served(plan))]
    ax.set_yticks(range(plan.num_experts), names)
    ax.set_ylim(plan.num_experts - 0.5, -0.5)
    ax.set_ylabel("expert, share of timesteps")
    ax.grid(axis="y")
    in_use = f"{len(set(experts.tolist()))} of {plan.num_experts} experts in use"
    ax.set_title(f"Routing: the expert of each timestep ({in_use}, {switches} switches)")
    return ax


@styled
def overview(
    plan: ExpertPlan, visited: Sequence[int] = (), timestep: int | None = None, ax: Axes | None = None
) -> FigureBase:
    """Masks above routing: all that a plan holds. timestep: its expert's row and its place are marked."""
    heights = (1.35 + 0.22 * plan.num_experts, 0.9 + 0.14 * plan.num_experts)
    figure = canvas(ax, WIDTH, sum(heights))
    above, below = figure.subplots(2, height_ratios=heights)
    masks(plan, above)
    routing(plan, below, visited)
    if timestep is not None:
        mark(plan, timestep, above, below)
    return figure


@styled
def plan_pair(plans: Mapping[str, ExpertPlan], ax: Axes | None = None) -> FigureBase:
    """Masks and routing of two plans side by side. plans: {name: plan}."""
    count = max(plan.num_experts for plan in plans.values())
    figure = canvas(ax, 1.5 * WIDTH, 2.3 + 0.3 * count)
    places = figure.subplots(2, len(plans), height_ratios=(1.4 + 0.2 * count, 0.9 + 0.1 * count), squeeze=False)
    for (name, plan), (above, below) in zip(plans.items(), places.T, strict=True):
        masks(plan, above, stagger=True)
        above.set_title(f"{name}: {plan.macs_ratio():.2%} of the MACs")
        routing(plan, below)
        below.set_title("")
    return figure


def mark(plan: ExpertPlan, timestep: int, above: Axes, below: Axes) -> None:
    """A frame around the row of the expert that serves `timestep`, a line at the timestep."""
    expert = plan.expert(timestep)
    frame = Rectangle((-0.5, expert - 0.5), len(plan.layer_names), 1, fill=False, edgecolor=RED, linewidth=2, zorder=5)
    frame.set_clip_on(False)
    above.add_patch(frame)
    below.axvline(timestep, color=RED, linewidth=1.5)
    below.set_title(f"Timestep {timestep} is served by expert {expert}: {plan.macs_ratio([timestep]):.1%} of the MACs")


def timestep_axis(ax: Axes, plan: ExpertPlan, visited: Sequence[int] = ()) -> None:
    """x counts timesteps 0..T-1: the left end is the clean image, the right end noise."""
    ax.set_xlim(-0.01 * plan.num_train_timesteps, 1.01 * plan.num_train_timesteps)
    ax.set_xlabel(
        "timestep t (0: image, right: noise" + ("; triangles: visited by the sampler)" if len(visited) else ")")
    )
    if len(visited):
        ax.plot(visited, [0] * len(visited), "^", color=INK, markersize=4, clip_on=False,
                transform=ax.get_xaxis_transform())  # fmt: skip


@styled
def macs_per_timestep(plan: ExpertPlan, ax: Axes | None = None, visited: Sequence[int] = ()) -> Axes:
    """The share of MACs that runs at each timestep, its mean over all T, over `visited`, and the target."""
    ax = axes(ax, 2.6)
    share = np.array(plan.expert_macs())[plan.routing.numpy()] / plan.cost.whole * 100
    ax.scatter(range(len(share)), share, s=14, marker="|", linewidths=1,
               c=np.array(expert_colors(plan.num_experts))[plan.routing.numpy()])  # fmt: skip
    width = max(1, len(share) // 20)
    padded = np.pad(share, (width // 2, width - 1 - width // 2), mode="edge")
    smooth = np.convolve(padded, np.full(width, 1 / width), "valid")
    ax.plot(smooth, color=INK, label=f"mean of {width} neighbours")
    ax.axhline(share.mean(), color=MUTED, linestyle="--", label=f"all T: {share.mean():.2f} %")
    if len(visited):
        ratio = plan.macs_ratio(visited) * 100
        ax.axhline(ratio, color=RED, linestyle=":", label=f"visited by the sampler: {ratio:.2f} %")
    timestep_axis(ax, plan, visited)
    ax.set_ylabel(f"active MACs, % of {plan.cost.denominator}")
    ax.grid(axis="y")
    ax.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 0.98))
    target = "" if plan.target_ratio is None else f" (target {plan.target_ratio:.0%} over all T)"
    ax.set_title(f"MACs at each timestep{target}", pad=20)
    return ax


@styled
def experts(plan: ExpertPlan, ax: Sequence[Axes] | None = None) -> np.ndarray:
    """Pairwise distances of the masks in layers, and the share of timesteps that each expert serves. ax: two."""
    ax = panels(ax, 1, 2, 3.2)
    distances = mask_distances(plan)
    image = ax[0].imshow(distances, cmap=MAP, norm=Normalize(0, max(1, distances.max())))
    for (row, column), distance in np.ndenumerate(distances):
        background = matplotlib.colormaps[MAP](image.norm(distance))
        ax[0].text(column, row, distance, ha="center", va="center", fontsize=7, color=text_color(background[:3]))
    ax[0].set_xticks(range(plan.num_experts))
    ax[0].set_yticks(range(plan.num_experts))
    ax[0].tick_params(length=0)
    ax[0].set(xlabel="expert", ylabel="expert")
    ax[0].set_title("Layers in which two masks differ")
    share = 100 * served(plan)
    ax[1].bar(range(plan.num_experts), share, color=expert_colors(plan.num_experts), edgecolor=MUTED, linewidth=0.5)
    for expert, value in enumerate(share):
        ax[1].text(expert, value, f"{value:.0f}", ha="center", va="bottom", fontsize=8)
    ax[1].axhline(100 / plan.num_experts, color=MUTED, linestyle="--", linewidth=1)
    ax[1].text(plan.num_experts - 0.5, 100 / plan.num_experts, "even", ha="right", va="bottom", color=MUTED, fontsize=8)
    ax[1].set_xticks(range(plan.num_experts))
    ax[1].tick_params(axis="x", length=0)
    ax[1].set(xlabel="expert", ylabel="% of the timesteps")
    ax[1].set_title("Timesteps served by each expert")
    return ax


def mask_distances(plan: ExpertPlan) -> np.ndarray:
    """Number of layers in which the masks of two experts differ, [N_e, N_e]."""
    return (plan.masks[:, None] != plan.masks[None]).sum(-1).numpy()
