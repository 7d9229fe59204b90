"""A plan in words, as HTML: a layer, a timestep, the calls of a sampler."""

from collections.abc import Sequence
from html import escape

from ..plan import CostTable, ExpertPlan


def paragraph(text: str) -> str:
    """Running text: JupyterLab gives widgets the line height of a control."""
    return f'<div style="line-height: 1.4">{text}</div>'


def amount(macs: float) -> str:
    """MACs with a unit: 1.234e9 -> "1.234 GMACs"."""
    units = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
    unit, scale = next((pair for pair in units if macs >= pair[1]), ("", 1))
    return f"{macs / scale:.4g} {unit}MACs"


def layer_text(plan: ExpertPlan, layer: int) -> str:
    """ "down_blocks.0.resnets.0: 1.234 MMACs, 0.9 % of the network"."""
    macs = plan.cost.layers[layer]
    return f"{plan.layer_names[layer]}: {amount(macs)}, {macs / plan.cost.total:.1%} of the network"


def description(plan: ExpertPlan, t: int, expert: int) -> str:
    """Which layers of the expert run and which are skipped, each with its share of the MACs."""
    macs, cost = plan.expert_macs()[expert], plan.cost
    named = list(zip(plan.layer_names, cost.layers, plan.masks[expert].tolist(), strict=True))
    lines = [f"<b>Timestep {t} is served by expert {plan.expert(t)}.</b> Shown: expert {expert}, "
             f"{amount(macs)} of {amount(cost.whole)} = {macs / cost.whole:.1%} ({cost.denominator}, "
             f"{escape(cost.convention)}, {cost.resolution[0]} x {cost.resolution[1]} latents)."]  # fmt: skip
    for word, wanted in (("active", True), ("skipped", False)):
        names = [f"{escape(name)} ({each / cost.total:.1%})" for name, each, runs in named if runs == wanted]
        lines.append(f"<b>{len(names)} {word}:</b> {', '.join(names) or 'none'}")
    return paragraph("<br>".join(lines))


def calls(plan: ExpertPlan, visited: Sequence[int]) -> str:
    """The expert of each call of a sampler, from noise to image, and the MACs of all of them."""
    costs = CostTable(plan.cost.layers, plan.cost.fixed, plan.cost.convention, plan.cost.resolution)
    experts, macs = [plan.expert(t) for t in visited], plan.expert_macs(costs)
    used, whole = sum(macs[expert] for expert in experts), len(visited) * costs.whole
    cells = "".join(f'<span title="call {i}: t = {t}, {macs[expert] / costs.whole:.1%} of the MACs">{expert}</span>'
                    for i, (t, expert) in enumerate(zip(visited, experts, strict=True), 1))  # fmt: skip
    said = ", ".join(map(str, sorted(set(experts))))
    return paragraph(
        f"<b>{len(visited)} calls visit {'experts' if len(set(experts)) > 1 else 'expert'} {said}: {amount(used)} of "
        f"{amount(whole)} = {used / whole:.2%}</b> of the whole network's, for one picture without guidance (with it, "
        f'twice that). The expert of each call, noise to image:<div class="alter-calls">{cells}</div>'
    )
