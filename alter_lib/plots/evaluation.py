"""Figures of an evaluation: pictures side by side over the experts that made them, quality against MACs."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from PIL.Image import Image

from ..plan import ExpertPlan
from .style import BLUE, GREEN, INK, MUTED, RED, WIDTH, axes, canvas, expert_colors, panels, styled, text_color

if TYPE_CHECKING:  # drawing needs neither metrics nor a denoiser
    from ..evaluation import EvaluationResult
    from ..inference.diagnosis import Diagnosis

QUALITY = {
    "fid_alexnet": "FID-AlexNet (lower is better)",
    "proxy_text_score": "proxy text score (higher is better)",
    "class_accuracy": "class accuracy (higher is better)",
    "fid_legacy_pytorch": "FID, clean-fid legacy_pytorch (lower is better)",
    "fid": "FID (lower is better)",
    "clip_score": "CLIP score (higher is better)",
}


def tiled(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """[N, H, W, 3] uint8 as one picture of rows of `columns` images on white."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


@styled
def image_grid(
    images: np.ndarray | Sequence[Image], captions: Sequence[str], columns: int = 8, ax: Axes | None = None
) -> FigureBase:
    """Pictures (uint8 [N, H, W, 3], or those of a pipeline) with their prompts below."""
    rows = -(-len(images) // columns)
    figure = canvas(ax, WIDTH, rows * (WIDTH / columns + 0.3))
    places = figure.subplots(rows, columns, squeeze=False).flat
    for each, image, caption in zip(places, images, captions, strict=False):
        each.imshow(image, interpolation="nearest")
        each.set_xlabel("\n".join(wrapped(caption)), fontsize=7, parse_math=False)
    for each in figure.axes:
        each.set(xticks=[], yticks=[])
        each.spines[:].set_visible(False)
    figure.set_label("pictures of " + ", ".join(captions))
    return figure


def wrapped(caption: str, width: int = 18, lines: int = 2) -> list[str]:
    """At most `lines` lines of a caption."""
    return textwrap.wrap(caption, width, max_lines=lines, placeholder=" ...") or [""]


@styled
def side_by_side(
    result: "EvaluationResult", plan: ExpertPlan, columns: int = 6, ax: Axes | None = None
) -> FigureBase:
    """The grids of an evaluation at the same prompts and seeds, over the strip of experts that the calls visited."""
    grid = result.grid
    if not grid.prompts:
        figure = canvas(ax, WIDTH, 0.8)
        nothing(figure.subplots())
        return figure
    rows = -(-len(grid.prompts) // columns)
    panel = WIDTH / len(grid.images)
    figure = canvas(ax, WIDTH, panel * rows / columns + 0.75)
    places = figure.subplots(2, len(grid.images), height_ratios=(panel * rows / columns, 0.22), squeeze=False)
    names = {"real": "pictures of the data set", "teacher": "teacher, all layers", "alter": "ALTER"}
    for (method, images), above, below in zip(grid.images.items(), *places, strict=True):
        kind, _, steps = method.partition("@")
        above.imshow(tiled(images, columns), interpolation="nearest")
        above.set_title(names[kind] + (f", {steps} steps" if steps else ""))
        above.axis("off")
        if kind == "alter":
            expert_strip(below, plan, [int(t) for t in grid.timesteps[method]])
        elif kind == "teacher":
            below.text(0.5, 0.5, f"{len(grid.timesteps[method])} calls of the whole network", ha="center", va="center",
                       transform=below.transAxes, fontsize=8, color=MUTED)  # fmt: skip
            below.axis("off")
        else:
            below.axis("off")
    return figure


def expert_strip(ax: Axes, plan: ExpertPlan, timesteps: Sequence[int]) -> None:
    """One cell a call of the denoiser, from noise to image: the expert that served it."""
    colors = expert_colors(plan.num_experts)
    for call, t in enumerate(timesteps):
        expert = plan.expert(t)
        ax.barh(0, 1, left=call, height=1, color=colors[expert], edgecolor="white", linewidth=0.4)
        ax.text(call + 0.5, 0, expert, ha="center", va="center", fontsize=6, color=text_color(colors[expert]))
    ax.set(xlim=(0, len(timesteps)), ylim=(-0.5, 0.5), yticks=[], xticks=[])
    ax.set_xlabel("expert of each call, noise to image", fontsize=7, labelpad=2)
    ax.spines[:].set_visible(False)


@styled
def quality_against_macs(result: "EvaluationResult", ax: Sequence[Axes] | None = None) -> np.ndarray:
    """FID-AlexNet and the proxy text score (captions) or class accuracy (labels) against the MACs of an image, 95 %
    intervals. ax: two.

    The teacher at fewer steps stands on the same axes: pruning has to beat it at equal MACs. A number at a point: its
    steps. Controls are dashed, since an unpruned one may lie on the teacher.
    """
    result = result.of_protocol()
    ax, labels = panels(ax, 1, 2, 3.4), quality_labels(result)
    controls = dict.fromkeys(m.method for m in result.metrics if m.name == "macs_ratio" and m.method != "alter")
    for each in ax[len(labels) :]:
        nothing(each)
    for each, (name, label) in zip(ax, labels.items(), strict=False):
        quality_curve(each, result, name, "teacher", BLUE)
        quality_curve(each, result, name, "alter", RED)
        for control in controls:
            quality_curve(each, result, name, control, GREEN, marker="s", linestyle="--")
        for real in [metric for metric in result.metrics if (metric.name, metric.method) == (name, "real")]:
            each.axhline(real.value, color=MUTED, linestyle="--", label="real pictures at the same N")
        each.set(xlabel=f"GMACs an image ({result.metric('total_macs', 'teacher').macs_convention})", ylabel=label)
        each.set_title(f"{label.split(' (')[0]}, N = {result.metric(name, 'teacher').n}")
        each.margins(x=0.14, y=0.14)
        each.grid()
    if labels:
        ax[0].set_ylim(bottom=0)
        ax[0].legend(title="numbers: steps")
    return ax


def quality_labels(result: "EvaluationResult") -> dict[str, str]:
    """{metric: axis label} of the figures of quality that this evaluation has, two at most."""
    measured = {metric.name for metric in result.metrics}
    return dict([(name, label) for name, label in QUALITY.items() if name in measured][:2])


def nothing(ax: Axes) -> None:
    """An axis without data says so."""
    ax.axis("off")
    ax.text(0.5, 0.5, "not measured: see what is missing", ha="center", va="center", transform=ax.transAxes)


def quality_curve(
    ax: Axes, result: "EvaluationResult", name: str, method: str, color: str, label: str = "", **look: str
) -> None:
    """One method over its numbers of steps. label: of the legend, the method's own where none is given; look: of
    `errorbar`.

    Steps of the teacher are written on the better side of its points, of the others on the worse; not where a control
    has the teacher's steps and MACs.
    """
    points = [m for m in result.metrics if (m.name, m.method) == (name, method)]
    macs = [result.value("total_macs", method, m.steps) / 1e9 for m in points]
    unpruned = {m.steps: m.value / 1e9 for m in result.metrics if (m.name, m.method) == ("total_macs", "teacher")}
    values = np.array([m.value for m in points])
    low, high = np.array([m.interval for m in points]).T
    label = label or {"teacher": "teacher (unpruned)", "alter": "ALTER"}.get(method, method)
    look = {"color": color, "label": label, "marker": "o", "markersize": 4, "capsize": 2, **look}
    ax.errorbar(macs, values, (values - low, high - values), **look)
    below = ("lower is better" in QUALITY[name]) == (method == "teacher")
    for x, m in zip(macs, points, strict=True):
        if method == "teacher" or unpruned.get(m.steps) != x:
            ax.annotate(m.steps, (x, m.interval[not below]), (0, -3 if below else 3), textcoords="offset points",
                        ha="center", va="top" if below else "bottom", fontsize=7, color=color)  # fmt: skip


@styled
def image_rows(drawn: Mapping[str, np.ndarray], captions: Sequence[str], ax: Axes | None = None) -> FigureBase:
    """Pictures [n, H, W, 3] of several samplers (or methods), a row each, the same prompts below each other."""
    first = next(iter(drawn.values()))
    figure = canvas(ax, WIDTH, len(drawn) * (WIDTH - 1.6) / len(first) + 0.45)
    places = figure.subplots(len(drawn), len(first), squeeze=False)
    for row, (name, images) in zip(places, drawn.items(), strict=True):
        for each, image in zip(row, images, strict=True):
            each.imshow(image, interpolation="nearest")
            each.set(xticks=[], yticks=[])
            each.spines[:].set_visible(False)
        row[0].set_ylabel(name.removesuffix("Scheduler"), rotation=0, ha="right", va="center", fontsize=8)
    for each, caption in zip(places[-1], captions, strict=True):
        each.set_xlabel("\n".join(wrapped(caption, 12)), fontsize=7, parse_math=False)
    figure.set_label(f"pictures of {', '.join(captions)}, by {', '.join(drawn)}")
    return figure


@styled
def call_seconds(diagnosis: "Diagnosis", ax: Axes | None = None) -> Axes:
    """Milliseconds of a call of the denoiser, unpruned and under the plan, and what the MACs alone would give."""
    ax = axes(ax, 1.6)
    unpruned, pruned = 1e3 * diagnosis.unpruned_seconds, 1e3 * diagnosis.pruned_seconds
    ax.barh(["unpruned", "under the plan"], [unpruned, pruned], color=(BLUE, RED), height=0.6)
    for row, value in enumerate((unpruned, pruned)):
        ax.text(0.98 * value, row, f"{value:.1f} ms", va="center", ha="right", fontsize=8, color="white")
    ax.axvline(
        diagnosis.ratio * unpruned, color=INK, linestyle="--", linewidth=1, label=f"its MACs: {diagnosis.ratio:.1%}"
    )
    ax.set_xlim(0, 1.25 * max(unpruned, pruned))
    ax.invert_yaxis()
    ax.set_xlabel(f"ms a call, batch {diagnosis.batch_size}, {diagnosis.device}; medians, taken in turns")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.legend(loc="lower right")
    ax.set_title(f"A call under the plan takes {pruned / unpruned:.1%} of the unpruned one's time")
    return ax
