"""Speed against its MAC-ideal."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from .style import INK, MUTED, PALETTE, axes, styled


@styled
def speedups(rows: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """Measured speedup against the ideal of calls x MACs, a point a row of `speed.measured`; below the line lies what
    is lost. Rows without an ideal (token merging, caches: their MACs are no matter of layers) are left out."""
    rows = [row for row in rows if row["ideal"]]
    ax = axes(ax, 4.2)
    names = list(dict.fromkeys(row["method"] for row in rows))
    limit = 1.1 * max([1.0, *(max(row["ideal"], row["speedup"]) for row in rows)])
    ax.plot([0.5, limit], [0.5, limit], color=INK, linewidth=1, linestyle="--", label="all that the MACs promise")
    for name, color in zip(names, PALETTE * (1 + len(names) // len(PALETTE)), strict=False):
        own = [row for row in rows if row["method"] == name]
        ax.scatter([row["ideal"] for row in own], [row["speedup"] for row in own], s=26, color=color, label=name)
    lowest = {(row["steps"], round(row["ideal"], 2)): row for row in sorted(rows, key=lambda row: -row["speedup"])}
    for row in lowest.values():  # methods of one ideal stand above each other: one label for all
        ax.annotate(f"{row['steps']}", (row["ideal"], row["speedup"]), (5, -9), textcoords="offset points", fontsize=7,
                    color=MUTED)  # fmt: skip
    where = ", ".join(dict.fromkeys(f"{row['workload']}, batch {row['batch_size']} ({row['device']})" for row in rows))
    ax.set(xlim=(0.5, limit), ylim=(0.5, limit))
    ax.set_xlabel(f"ideal speedup: calls x MACs; numbers: steps. {where}")
    ax.set_ylabel("measured speedup")
    ax.grid()
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    ax.set_title("Measured speedup against what the MACs promise")
    return ax
