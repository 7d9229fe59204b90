"""Prunable layers along an axis: in execution order, grouped and labelled by block; and what they cost."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from .style import BLUE, FAINT, INK, MUTED, ORANGE, axes, styled

if TYPE_CHECKING:
    from ..backbones import Backbone

KINDS = {"resnet": BLUE, "transformer": ORANGE, "block": BLUE}


def block_of(layer: str) -> str:
    """`down_blocks.0.resnets.1` -> "down 0"; `mid_block.attentions.0` -> "mid"; `transformer_blocks.3` -> "blocks"."""
    stage, *rest = layer.split(".")
    if stage == "mid_block":
        return "mid"
    return f"{stage.removesuffix('_blocks')} {rest[0]}" if len(rest) > 1 else "blocks"


def letter_of(layer: str) -> str:
    """R for a residual layer, T for a transformer of a UNet; the number of a DiT's block."""
    if layer.startswith("transformer_blocks."):
        return layer.split(".")[1]
    return "R" if ".resnets." in layer else "T"


def blocks(layers: Sequence[str]) -> list[tuple[str, int, int]]:
    """(label, first, last) of each block: indices of its layers, both ends included."""
    groups = [(label, [i for i, _ in members])
              for label, members in groupby(enumerate(layers), key=lambda item: block_of(item[1]))]  # fmt: skip
    return [(label, members[0], members[-1]) for label, members in groups]


def label_layers(ax: Axes, layers: Sequence[str], letters: bool = True, stagger: bool = False) -> None:
    """The x axis of `ax` counts layers: a letter a layer, a name a block, lines between blocks.

    stagger: every other block's name stands lower, for narrow axes.
    """
    ax.set_xlim(-0.5, len(layers) - 0.5)
    ax.set_xticks(range(len(layers)), [letter_of(layer) for layer in layers] if letters else [], fontsize=6.5)
    ax.tick_params(axis="x", length=0, pad=2)
    for number, (label, first, last) in enumerate(blocks(layers)):
        if first:
            ax.axvline(first - 0.5, color=INK, linewidth=0.8)
        below = -26 if stagger and number % 2 else -16
        ax.annotate(label, ((first + last) / 2, 0), (0, below), xycoords=("data", "axes fraction"),
                    textcoords="offset points", ha="center", va="top", fontsize=8)  # fmt: skip


@styled
def layer_macs(backbone: "Backbone", ax: Axes | None = None) -> Axes:
    """MACs of each prunable layer in execution order, and the share that they hold of the whole network."""
    ax = axes(ax, 2.9)
    macs = [layer.macs / backbone.total_macs for layer in backbone.layers]
    ax.bar(range(len(macs)), [100 * share for share in macs], color=[KINDS[layer.kind] for layer in backbone.layers],
           width=0.8)  # fmt: skip
    label_layers(ax, [layer.name for layer in backbone.layers])
    for kind in dict.fromkeys(layer.kind for layer in backbone.layers):
        chosen = [share for share, layer in zip(macs, backbone.layers, strict=True) if layer.kind == kind]
        ax.bar(0, 0, color=KINDS[kind], label=f"{len(chosen)} {kind} layers: {sum(chosen):.1%} of the MACs")
    ax.bar(0, 0, color=FAINT, edgecolor=MUTED, label=f"not prunable: {backbone.fixed_macs / backbone.total_macs:.1%}")
    ax.set_ylabel("% of the network's MACs")
    ax.grid(axis="y")
    ax.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 0.99))
    ax.set_title(f"What each prunable layer costs ({backbone.macs_convention}, "
                 f"{backbone.resolution[0]} x {backbone.resolution[1]} latents)", pad=22)  # fmt: skip
    return ax
