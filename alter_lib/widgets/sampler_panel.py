"""Which experts a sampler really visits, and what that costs."""

import diffusers
import ipywidgets as widgets
import traitlets
from diffusers import DiffusionPipeline

from ..evaluation.generation import make_scheduler
from ..plan import ExpertPlan
from ..schedules import visited_timesteps
from ..tables import SCHEDULERS
from . import words
from .view import row

SETTINGS = {"PNDMScheduler": {"skip_prk_steps": True}}  # as every Stable Diffusion pipeline has it


class SamplerPanel(widgets.VBox):
    """A scheduler and a number of steps; `visited` holds the timestep of each call, in order.

    With a pipeline its own scheduler comes first and all take its settings; without one they have their classes'
    defaults.
    """

    visited = traitlets.List(traitlets.Int())

    def __init__(self, plan: ExpertPlan, pipeline: DiffusionPipeline | None, steps: int) -> None:
        self.plan, self.pipeline = plan, pipeline
        own = [type(pipeline.scheduler).__name__] if pipeline else []
        names = list(dict.fromkeys([*own, *SCHEDULERS[plan.backbone_class]]))
        self.scheduler = widgets.Dropdown(options=names, description="sampler")
        most = plan.num_train_timesteps
        self.steps = widgets.BoundedIntText(steps, min=1, max=most, description="steps", layout={"width": "170px"})
        self.text = widgets.HTML()
        super().__init__([row(self.scheduler, self.steps), self.text])
        for control in (self.scheduler, self.steps):
            control.observe(self._visit, "value")
        self._visit()

    def show(self, plan: ExpertPlan) -> None:
        self.plan = plan
        self.text.value = words.calls(plan, self.visited)

    def _visit(self, _change: object = None) -> None:
        self.visited = visited_timesteps(self.chosen(), self.steps.value)
        self.show(self.plan)

    def chosen(self) -> diffusers.SchedulerMixin:
        name = self.scheduler.value
        if self.pipeline:
            return make_scheduler(self.pipeline, name)
        return getattr(diffusers, name)(num_train_timesteps=self.plan.num_train_timesteps, **SETTINGS.get(name, {}))
