"""One look for every figure: sizes, colours that colour-blind readers can tell apart, saving.

Figures are made without pyplot, so that no global state is kept and nothing is shown by itself:

    save(plots.masks(plan), params, "04_masks")  # runs/<name>/figures/04_masks.png and .pdf; displays the PNG
"""

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from PIL import Image

from ..common.files import whole
from ..params import Params

P, R = ParamSpec("P"), TypeVar("R")
WIDTH = 8.0  # inches
DPI = 150
INK, MUTED, FAINT = "#222222", "#767676", "#e4e4e4"
# Okabe and Ito's palette without its black, then four of Paul Tol's muted colours
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442",
           "#332288", "#882255", "#999933", "#117733")  # fmt: skip
BLUE, ORANGE, GREEN, PINK, SKY, RED = PALETTE[:6]
MAP = "cividis_r"  # dark = much
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=PALETTE),
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "savefig.dpi": DPI,
    "pdf.fonttype": 42,  # text stays text: it can be searched, and edited for a paper
}


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """The figure is drawn in STYLE, whatever the caller's own settings are."""

    @functools.wraps(function)
    def draw(*arguments: P.args, **keywords: P.kwargs) -> R:
        with matplotlib.rc_context(STYLE):
            return function(*arguments, **keywords)

    return draw


def axes(ax: Axes | None, height: float, width: float = WIDTH) -> Axes:
    """`ax`, or the axes of a new figure of that size in inches."""
    return ax if ax is not None else Figure((width, height), layout="constrained").subplots()


def canvas(ax: Axes | None, width: float, height: float) -> FigureBase:
    """A new figure of that size in inches; or, for a drawing of several panels, a subfigure in the place of `ax`."""
    if ax is None:
        return Figure((width, height), layout="constrained")
    place, parent = ax.get_subplotspec(), ax.figure
    ax.remove()
    return parent.add_subfigure(place)


def panels(ax: Sequence[Axes] | None, rows: int, columns: int, height: float, **keywords: Any) -> np.ndarray:
    """`ax` as an array, or the axes [rows * columns] of a new figure. keywords: those of Figure.subplots."""
    if ax is not None:
        return np.asarray(ax).ravel()
    return np.atleast_1d(Figure((WIDTH, height), layout="constrained").subplots(rows, columns, **keywords)).ravel()


def expert_colors(num_experts: int) -> list[str]:
    """One colour an expert: the palette, or evenly spaced ones of a colour map where there are more experts."""
    if num_experts <= len(PALETTE):
        return list(PALETTE[:num_experts])
    return [
        matplotlib.colors.to_hex(color) for color in matplotlib.colormaps["viridis"](np.linspace(0, 1, num_experts))
    ]


def text_color(background: Any) -> str:
    """Black or white, whichever reads better on `background` (relative luminance, ITU-R BT.709)."""
    red, green, blue = matplotlib.colors.to_rgb(background)
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5 else INK


@dataclass(frozen=True)
class Saved:
    """A figure on disk, which a notebook displays as the last value of a cell. text: what it shows, for those who can't
    see it."""

    path: Path
    text: str

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        size = {"width": round(WIDTH * 100)}
        return {"image/png": self.path.read_bytes(), "text/plain": self.text}, {"image/png": size}


@styled
def rendered(figure: Figure, kind: str) -> bytes:
    """The figure as "png" (DPI pixels an inch) or "pdf" (vector), without a date: equal figures give equal bytes."""
    target = io.BytesIO()
    without = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}[kind]
    figure.savefig(target, format=kind, dpi=DPI, metadata=without)
    return target.getvalue() if kind == "pdf" else with_palette(target)


def with_palette(file: io.BytesIO) -> bytes:
    """The same PNG in 256 colours, half of the size: a notebook holds many and shall stay below a megabyte.

    Rare colours count as much as frequent ones, else pictures would tint the text beside them.
    """
    target, spread = io.BytesIO(), Image.Quantize.MAXCOVERAGE
    image = Image.open(file).convert("RGB").quantize(256, spread, kmeans=2, dither=Image.Dither.NONE)
    image.save(target, "png", optimize=True, dpi=(DPI, DPI))
    return target.getvalue()


def png(figure: Figure) -> bytes:
    return rendered(figure, "png")


def save(drawn: Figure | Axes | Sequence[Axes], params: Params, name: str) -> Saved:
    """Write runs/<name>/figures/`name`.png and .pdf, each atomically. drawn: a figure, or axes of it."""
    first = drawn if isinstance(drawn, Figure | Axes) else list(drawn)[0]
    figure = first if isinstance(first, Figure) else first.figure
    path = params.run_folder / "figures" / f"{name}.png"
    for kind in ("png", "pdf"):  # in this order: drawing nudges the layout, and the PNG is to be as drawn anew
        with whole(path.with_suffix(f".{kind}")) as partial:
            partial.write_bytes(rendered(figure, kind))
    return Saved(path, description(figure))


def description(figure: Figure) -> str:
    """The titles of a figure and its panels, in one line; its label where it has none."""
    titles = [figure.get_suptitle(), *(ax.get_title(loc) for ax in figure.axes for loc in ("left", "center"))]
    return "; ".join(title.replace("\n", " ") for title in titles if title) or figure.get_label()
