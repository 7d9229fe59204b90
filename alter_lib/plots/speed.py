"""Speed against its MAC-ideal."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import ScalarFormatter

from .style import INK, MUTED, PALETTE, WIDTH, axes, canvas, styled


@styled
def speedups(rows: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """Measured speedup against the ideal of calls x MACs, a point a row of `speed.measured`; below the line lies what
    is lost. Rows without an ideal (token merging, caches: their MACs are no matter of layers) are left out."""
    rows = [row for row in rows if row["ideal"]]
    ax = axes(ax, 4.2)
    points(ax, rows, method_colors(rows))
    where = ", ".join(dict.fromkeys(f"{row['workload']}, batch {row['batch_size']} ({row['device']})" for row in rows))
    ax.set_xlabel(f"ideal speedup: calls x MACs; numbers: steps. {where}")
    ax.set_ylabel("measured speedup")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    ax.set_title("Measured speedup against what the MACs promise")
    return ax


@styled
def speedup_panels(rows: Sequence[Mapping[str, Any]], columns: int = 2, ax: Axes | None = None) -> FigureBase:
    """`speedups` with a panel for each workload, batch size and device: committed results of several."""
    rows = [row for row in rows if row["ideal"]]
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["workload"], row["batch_size"], row["device"]), []).append(row)
    height = max(1, -(-len(groups) // columns))
    figure = canvas(ax, WIDTH, 3.6 * height + 0.8)
    title = "Measured speedup over the eager unpruned network, against what the MACs promise"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, weight="bold")
    panels, colors = figure.subplots(height, columns, squeeze=False).ravel(), method_colors(rows)
    for each, ((workload, batch_size, device), own) in zip(panels, groups.items(), strict=False):
        points(each, own, colors)
        each.set(xlabel="ideal speedup: calls x MACs; numbers: steps", ylabel="measured speedup")
        each.set_title(f"{workload}, batch {batch_size}\n{device}", fontsize=8, weight="normal")
    for each in panels[len(groups) :]:
        each.set_axis_off()
    handles = {text: handle for each in panels for handle, text in zip(*each.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return figure


def method_colors(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    names = list(dict.fromkeys(row["method"] for row in rows))
    return dict(zip(names, PALETTE * (1 + len(names) // len(PALETTE)), strict=False))


def points(ax: Axes, rows: Sequence[Mapping[str, Any]], colors: Mapping[str, str]) -> None:
    """The line of the ideal, a point a row, and the number of steps once for methods of about the same ideal. Both
    scales are logarithmic: equal distances from the line are equal shares of the ideal."""
    values = [1.0, *(row[key] for row in rows for key in ("ideal", "speedup"))]
    limits = min(values) / 1.25, max(values) * 1.25
    ax.plot(limits, limits, color=INK, linewidth=1, linestyle="--", label="all that the MACs promise")
    for name, color in colors.items():
        if own := [row for row in rows if row["method"] == name]:
            ax.scatter([row["ideal"] for row in own], [row["speedup"] for row in own], s=26, color=color, label=name)
    labelled: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda row: row["speedup"]):  # the lowest of them, where there is room
        if all(row["steps"] != each["steps"] or abs(row["ideal"] / each["ideal"] - 1) > 0.1 for each in labelled):
            ax.annotate(f"{row['steps']}", (row["ideal"], row["speedup"]), (5, -9), textcoords="offset points",
                        fontsize=7, color=MUTED)  # fmt: skip
            labelled.append(row)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(ScalarFormatter())
    ax.set(xlim=limits, ylim=limits)
    ax.grid()
