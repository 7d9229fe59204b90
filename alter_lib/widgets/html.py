"""A plan as a drawing in HTML: pure functions, no kernel.

Text keeps its size and takes the page's colour, so that it reads well in dark and light themes; drawings stretch to the
width that there is.
"""

from collections.abc import Sequence
from html import escape
from itertools import groupby

from ..plan import ExpertPlan
from ..plan.file import encode_routing
from ..plots.layers import blocks, letter_of
from ..plots.style import RED
from .css import STYLE
from .words import layer_text

GAP = 0.5  # between blocks, in widths of a layer


def places(layers: Sequence[str]) -> tuple[list[float], float]:
    """Left edge of each layer in widths of a layer, a gap between blocks; and the width of all."""
    starts = [first for _, first, _ in blocks(layers)]
    edges = [i + GAP * (sum(first <= i for first in starts) - 1) for i in range(len(layers))]
    return edges, edges[-1] + 1


def stretched(width: float, height: float, content: str) -> str:
    """An SVG that fills its place, whatever its shape."""
    return f'<svg viewBox="0 0 {width:g} {height:g}" preserveAspectRatio="none">{content}</svg>'


def mask_row(plan: ExpertPlan, expert: int, before: ExpertPlan | None = None) -> str:
    """One expert's layers: filled bars run, hollow ones are skipped, heights are MACs; a red frame: not as in
    `before`."""
    edges, width = places(plan.layer_names)
    highest, drawn = max(plan.cost.layers), []
    for i, (x, runs) in enumerate(zip(edges, plan.masks[expert].tolist(), strict=True)):
        height = 3 + 15 * plan.cost.layers[i] / highest
        changed = before is not None and bool(before.masks[expert, i]) != runs
        kind = ("on" if runs else "off") + (" changed" if changed else "")
        title = escape(f"{layer_text(plan, i)}; expert {expert} {'runs' if runs else 'skips'} it")
        drawn.append(
            f'<g><title>{title}</title><rect class="hit" x="{x:g}" y="0" width="1" height="21"/>'
            f'<rect class="{kind}" x="{x + 0.1:.4g}" y="{20 - height:.3g}" width=".8" height="{height:.3g}"/></g>'
        )
    return stretched(width, 21, "".join(drawn))


def routing_row(plan: ExpertPlan, expert: int) -> str:
    """The timesteps that an expert serves, as one path."""
    runs = [(first, last) for first, last, serving in encode_routing(plan.routing.tolist()) if serving == expert]
    path = "".join(f"M{first} 5h{last - first + 1}v11h-{last - first + 1}z" for first, last in runs)
    return stretched(plan.num_train_timesteps, 21, f'<path class="on" d="{path}"/>')


def head(plan: ExpertPlan) -> str:
    """Above the masks names of stages, numbers of their blocks, a letter a layer; above the routing its two ends."""
    edges, width = places(plan.layer_names)

    def at(first: int, last: int, text: str) -> str:
        middle = (edges[first] + edges[last] + 1) / 2
        return f'<span class="at" style="left:{100 * middle / width:.2f}%">{escape(text)}</span>'

    named = blocks(plan.layer_names)
    stages = [(stage, list(members)) for stage, members in groupby(named, lambda block: block[0].split()[0])]
    lines = [
        [at(members[0][1], members[-1][2], stage) for stage, members in stages],
        [at(first, last, label.partition(" ")[2]) for label, first, last in named],
        [at(i, i, letter_of(layer)) for i, layer in enumerate(plan.layer_names)],
    ]
    over_masks = "".join(f'<div class="heading">{"".join(line)}</div>' for line in lines)
    ends = f"<span>0 image</span><span>timestep</span><span>noise {plan.num_train_timesteps - 1}</span>"
    return (
        f'<div class="row head"><div class="name">expert</div><div>{over_masks}</div>'
        f'<div class="ends">{ends}</div></div>'
    )


def expert_rows(plan: ExpertPlan, before: ExpertPlan | None = None) -> str:
    """A row an expert: its share of the MACs, its mask, the timesteps that it serves."""
    shares = [macs / plan.cost.whole for macs in plan.expert_macs()]
    return "".join(
        f'<div class="row expert-{i}"><div class="name"><b>{i}</b>{share:.1%}</div>'
        f'<div class="field masks">{mask_row(plan, i, before)}</div>'
        f'<div class="field">{routing_row(plan, i)}<i class="cursor"></i></div></div>'
        for i, share in enumerate(shares)
    )


def macs_curve(plan: ExpertPlan, visited: Sequence[int] = ()) -> str:
    """Active MACs at each timestep, 0 to 100 %; dashed: the mean over all; ticks below: `visited` by a sampler."""
    shares = [100 * (1 - macs / plan.cost.whole) for macs in plan.expert_macs()]
    steps = "".join(f"V{shares[expert]:.4g}H{last + 1}" for _, last, expert in encode_routing(plan.routing.tolist()))
    mean = 100 * (1 - plan.macs_ratio())
    ticks = "".join(f'<path class="visit" d="M{t + 0.5} 100V91"/>' for t in sorted(set(visited)))
    total, start = plan.num_train_timesteps, shares[int(plan.routing[0])]
    lines = f'<path class="rule" d="M0 {mean:.4g}H{total}"/><path class="line" d="M0 {start:.4g}{steps}"/>{ticks}'
    field = f'<div class="field">{stretched(total, 100, lines)}<i class="cursor"></i></div>'
    return (
        f'<div class="row curve"><div class="name">MACs<br>0 to 100 %<br>mean - - -<br>'
        f"{plan.macs_ratio():.2%}</div>{field}</div>"
    )


def drawing(plan: ExpertPlan, visited: Sequence[int] = (), before: ExpertPlan | None = None) -> str:
    """Masks, routing and MACs of a plan; what differs from `before` is framed. `pointer` moves over it."""
    return f'{STYLE}<div class="alter-plan">{head(plan)}{expert_rows(plan, before)}{macs_curve(plan, visited)}</div>'


def pointer(scope: str, plan: ExpertPlan, t: int, expert: int) -> str:
    """A style sheet of a few bytes that puts the cursor of the drawing inside .`scope` at `t` and frames the row of
    `expert`: a move of the slider sends this and leaves the drawing as it is."""
    at, row = 100 * (t + 0.5) / plan.num_train_timesteps, f".{scope} .alter-plan .expert-{expert}"
    sign = f'content: "\\25b6"; position: absolute; left: .3em; color: {RED};'
    return (
        f"<style>.{scope} .cursor {{ left: {at:.3f}%; }} {row} {{ outline-color: {RED}; }} "
        f"{row} .name::before {{ {sign} }}</style>"
    )
