"""Two plans side by side: of two runs, two checkpoints, or before and after an edit."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

import ipywidgets as widgets

from .. import plots
from ..plan import ExpertPlan
from ..plan.file import PlanError
from ..training.plan_source import plan_at
from .view import PlanView, WithPicture, note, row, timestep_slider
from .words import paragraph


class PlanComparison(WithPicture):
    """One timestep slider over two plans. Experts carry a number each; the same number in two runs means nothing.

    Args:
        plans: {name: plan}, two of them, over the same layers and timesteps: plans, or paths of a plan.json, of a
            folder that holds one (runs/<name>/alter), or of a checkpoint (runs/<name>/checkpoints/step-000200).
    Raises PlanError where they are of different backbones, or a path leads to no plan.
    """

    def __init__(self, plans: Mapping[str, ExpertPlan | str | Path]) -> None:
        self.plans = {name: plan if isinstance(plan, ExpertPlan) else plan_at(plan) for name, plan in plans.items()}
        first, second = self.plans.values()
        if (first.layer_names, first.num_train_timesteps) != (second.layer_names, second.num_train_timesteps):
            raise PlanError(f"{' and '.join(self.plans)}: different layers or timesteps, nothing to compare")
        self.play, self.timestep = timestep_slider(first.num_train_timesteps)
        self.views = {name: PlanView(plan) for name, plan in self.plans.items()}
        for view in self.views.values():
            view.text.layout.display = "none"  # what differs is said once, above both
        self.text = widgets.HTML()
        columns = [widgets.VBox([note(f"<b>{escape(name)}</b>: {view.plan.macs_ratio():.2%} of the MACs"), view],
                                layout={"flex": "1 1 400px", "min_width": "0"})
                   for name, view in self.views.items()]  # fmt: skip
        super().__init__([row(self.play, self.timestep), self.text, row(*columns)])
        self.timestep.observe(self._point, "value")
        self._point()

    def static(self) -> bytes:
        return plots.png(plots.plan_pair(self.plans))

    def _point(self, _change: object = None) -> None:
        t = self.timestep.value
        for view in self.views.values():
            view.point(t, view.plan.expert(t))
        self.text.value = difference_text(self.plans, t)


def difference_text(plans: Mapping[str, ExpertPlan], t: int) -> str:
    """Which layers run at timestep `t` under one of two plans alone."""
    names, active = list(plans), [set(plan.active_layers(t)) for plan in plans.values()]
    shares = [
        f"{escape(name)}: expert {plan.expert(t)}, {plan.macs_ratio([t]):.1%} of the MACs"
        for name, plan in plans.items()
    ]
    layers = next(iter(plans.values())).layer_names
    lines = [f"<b>Timestep {t}.</b> {'; '.join(shares)}."]
    for name, mine, other in zip(names, active, reversed(active), strict=True):
        alone = [layer for layer in layers if layer in mine - other]
        lines.append(f"<b>{len(alone)} in {escape(name)} alone:</b> {escape(', '.join(alone)) or 'none'}")
    return paragraph("<br>".join(lines))
