"""The mask inspector: which layers run at a timestep, what they cost, and what if they were others."""

from pathlib import Path

import ipywidgets as widgets
from diffusers import DiffusionPipeline

from ..params import Sampling
from ..plan import ExpertPlan
from .sampler_panel import SamplerPanel
from .view import WIDE, PlanView, WithPicture, png_of, row, timestep_slider
from .what_if import WhatIf


class MaskInspector(WithPicture):
    """Sliders for timestep and expert over masks, routing and MACs of a plan; a sampler's calls; edits by hand.

    Moving the timestep chooses the expert that serves it; moving the expert looks at any other. A cell of the heat map
    names its layer, MACs and share; pressed, it chooses its expert, and with the what-if panel open toggles its layer.
    Arrow keys move a focused slider or cell, Tab and Space reach every button and cell.

    Args:
        plan: the plan to look at; `inspector.plan` is what the what-if panel made of it.
        pipeline: gives the sampler's settings, and draws pictures before and after an edit.
        sampling: scheduler and steps to begin with, guidance and seed of the pictures; None: the defaults of params.
        save_as: where an edited plan goes unless another path is typed.
    """

    def __init__(
        self,
        plan: ExpertPlan,
        pipeline: DiffusionPipeline | None = None,
        sampling: Sampling | None = None,
        save_as: str | Path = "edited/plan.json",
    ) -> None:
        self.play, self.timestep = timestep_slider(plan.num_train_timesteps)
        self.expert = widgets.IntSlider(
            min=0,
            max=plan.num_experts - 1,
            value=plan.expert(0),
            description="expert",
            layout=WIDE,
        )
        self.sampler = SamplerPanel(plan, pipeline, sampling or Sampling())
        self.view = PlanView(plan, self.sampler.visited)
        self.what_if = WhatIf(plan, pipeline, self.sampler, Path(save_as))
        self.what_if.layout.display = "none"
        self.edit = widgets.ToggleButton(description="What if ...", icon="pencil", tooltip="edit the plan by hand")
        controls = [row(self.play, self.timestep), row(self.expert, self.edit)]
        super().__init__([*controls, self.view, self.what_if, self.sampler])
        self.timestep.observe(self._follow, "value")
        self.expert.observe(self._point, "value")
        self.edit.observe(self._open, "value")
        self.view.picture.on_press(self._press)
        self.sampler.observe(self._draw, "visited")
        self.what_if.observe(self._draw, "plan")
        self._point()

    @property
    def plan(self) -> ExpertPlan:
        return self.what_if.plan

    def static(self) -> bytes:
        return png_of(self.plan, self.sampler.visited, self.timestep.value)

    def _follow(self, _change: object = None) -> None:
        """The timestep moved: look at its expert."""
        before, self.expert.value = self.expert.value, self.plan.expert(self.timestep.value)
        if self.expert.value == before:  # else the expert's own observer has pointed
            self._point()

    def _point(self, _change: object = None) -> None:
        self.view.point(self.timestep.value, self.expert.value)
        self._select()

    def _select(self) -> None:
        """The what-if panel shows the expert; a closed one would only slow the slider down."""
        if self.edit.value and self.what_if.expert != self.expert.value:
            self.what_if.select(self.expert.value)

    def _open(self, change: dict) -> None:
        self.what_if.layout.display = None if change["new"] else "none"
        self._select()

    def _press(self, expert: int, layer: int) -> None:
        """A cell of the heat map was pressed."""
        self.expert.value = expert
        if self.edit.value:
            self.what_if.press(layer)

    def _draw(self, _change: object = None) -> None:
        """The plan or the sampler changed. An expert that was chosen by hand stays the one that is looked at."""
        is_served = self.expert.value == self.view.plan.expert(self.timestep.value)
        before = self.what_if.before if self.plan is not self.what_if.before else None
        self.view.show(self.plan, self.sampler.visited, before)
        self.sampler.show(self.plan)
        if is_served:
            self._follow()
        else:
            self._point()
