"""Figures of several runs: the front of quality and MACs, the number of experts (paper Fig. 4c), latency."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from .evaluation import quality_curve, quality_labels
from .style import BLUE, INK, MUTED, ORANGE, PALETTE, RED, axes, panels, styled

if TYPE_CHECKING:
    from ..evaluation import EvaluationResult


@styled
def quality_front(results: Mapping[str, "EvaluationResult"], ax: Sequence[Axes] | None = None) -> np.ndarray:
    """Quality against the MACs of an image, 95 % intervals: ALTER of each run, and the teacher of the first. ax: two.

    results: {label: evaluation}; they should be of the same N and extractor, which the title names.
    """
    ax = panels(ax, 1, 2, 3.4)
    first = next(iter(results.values()))
    for each, (name, label) in zip(ax, quality_labels(first).items(), strict=True):
        quality_curve(each, first, name, "teacher", INK)
        for number, (run, result) in enumerate(results.items()):
            color, marker = PALETTE[number % len(PALETTE)], "os^Dv<>"[number % 7]
            quality_curve(each, result, name, "alter", color, run, marker=marker)
        counts = sorted({result.metric(name, "alter").n for result in results.values()})
        each.set(xlabel=f"GMACs an image ({first.metric('total_macs', 'teacher').macs_convention})", ylabel=label)
        each.set_title(f"{label.split(' (')[0]}, N = {', '.join(map(str, counts))}")
        each.margins(x=0.14, y=0.14)
        each.grid()
    ax[0].set_ylim(bottom=0)
    ax[0].legend(title="numbers: steps")
    return ax


@styled
def expert_counts(results: Mapping[int, "EvaluationResult"], ax: Sequence[Axes] | None = None) -> np.ndarray:
    """Fig. 4c: quality against the number of experts, 95 % intervals; dashed: the teacher at the same steps. ax: two.

    results: {N_e: evaluation of a run with so many experts}.
    """
    ax = panels(ax, 1, 2, 2.9)
    first = next(iter(results.values()))
    for each, (name, label), color in zip(ax, quality_labels(first).items(), (BLUE, ORANGE), strict=True):
        points = [results[count].metric(name, "alter") for count in sorted(results)]
        values = np.array([point.value for point in points])
        low, high = np.array([point.interval for point in points]).T
        each.errorbar(sorted(results), values, (values - low, high - values), color=color, marker="o", markersize=4,
                      capsize=2)  # fmt: skip
        teacher = first.metric(name, "teacher", points[0].steps).value
        each.axhline(teacher, color=MUTED, linestyle="--", label=f"unpruned, {points[0].steps} steps")
        each.set(xlabel="number of experts", ylabel=label, xticks=sorted(results))
        each.set_title(f"{label.split(' (')[0]}, {points[0].steps} steps, N = {points[0].n}")
        each.margins(y=0.2)
        each.grid()
        each.legend()
    return ax


@styled
def latency_bars(measured: Mapping[str, Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """Time of a call relative to the unpruned network, median and quartiles; a tick: what the MACs alone would give.

    measured: {label: {"macs_ratio": float, "pruned_over_unpruned": {"median", "q25", "q75"}}}, as `alter_lib.benchmark`
    writes them (its "forward" section: "learned", or one of "random"/"plans").
    """
    ax = axes(ax, 0.9 + 0.36 * len(measured))
    for row, (label, found) in enumerate(measured.items()):
        time, macs = found["pruned_over_unpruned"], 100 * found["macs_ratio"]
        median = 100 * time["median"]
        spread = ([median - 100 * time["q25"]], [100 * time["q75"] - median])
        ax.barh(row, median, xerr=spread, color=BLUE, height=0.6, error_kw={"ecolor": INK, "capsize": 2, "lw": 1})
        ax.plot([macs, macs], [row - 0.36, row + 0.36], color=RED, linewidth=2, label=None if row else "active MACs")
        ax.text(0.6, row, f"{label}: {median:.1f} %", va="center", fontsize=8, color="white")
    ax.axvline(100, color=MUTED, linestyle="--", linewidth=1, label="unpruned")
    ax.set(xlim=(0, 108), yticks=[], xlabel="time of a call, % of the unpruned one (median, quartiles)")
    ax.invert_yaxis()
    ax.grid(axis="x")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return ax
