"""Which experts a sampler really visits, and what that costs."""

import diffusers
import ipywidgets as widgets
import traitlets
from diffusers import DiffusionPipeline

from ..evaluation.generation import sampler_scheduler
from ..params import Sampling
from ..plan import ExpertPlan
from ..plan.schedules import visited_timesteps
from ..sampling import learned_variance_scheduler
from ..tables import SCHEDULERS
from . import words
from .view import row

LEARNED = "learned_variance"  # the DiT repository's procedure, which brings its own scheduler
SETTINGS = {"PNDMScheduler": {"skip_prk_steps": True}}  # as every Stable Diffusion pipeline has it


class SamplerPanel(widgets.VBox):
    """A scheduler and a number of steps; `visited` holds the timestep of each call, in order.

    With a pipeline its own scheduler comes first and all take its settings; without one they have their classes'
    defaults.
    """

    visited = traitlets.List(traitlets.Int())

    def __init__(self, plan: ExpertPlan, pipeline: DiffusionPipeline | None, sampling: Sampling) -> None:
        self.plan, self.pipeline, self.first = plan, pipeline, sampling
        own = type(pipeline.scheduler).__name__ if pipeline else None
        names = list(dict.fromkeys(filter(None, (sampling.scheduler, own, *SCHEDULERS[plan.backbone_class]))))
        if sampling.procedure == LEARNED:
            names.insert(0, LEARNED)
        self.scheduler = widgets.Dropdown(options=names, description="sampler")
        most = plan.num_train_timesteps
        self.steps = widgets.BoundedIntText(
            value=sampling.steps, min=1, max=most, description="steps", layout={"width": "170px"}
        )
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

    @property
    def sampling(self) -> Sampling:
        """How to draw with what is chosen here."""
        name = self.scheduler.value
        scheduler, procedure = (None, LEARNED) if name == LEARNED else (name, "pipeline")
        chosen = {"scheduler": scheduler, "procedure": procedure, "steps": self.steps.value}
        return self.first.model_copy(update=chosen)

    def chosen(self) -> diffusers.SchedulerMixin:
        name = self.scheduler.value
        if self.pipeline:
            return sampler_scheduler(self.pipeline, self.sampling)
        if name == LEARNED:
            return learned_variance_scheduler({"num_train_timesteps": self.plan.num_train_timesteps})
        return getattr(diffusers, name)(num_train_timesteps=self.plan.num_train_timesteps, **SETTINGS.get(name, {}))
