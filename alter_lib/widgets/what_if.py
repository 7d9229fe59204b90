"""Panel of the inspector that edits a plan by hand: layers on and off, intervals to another expert, pictures before and
after, saving."""

import base64
from collections.abc import Callable
from html import escape
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import traitlets
from diffusers import DiffusionPipeline, DiTPipeline

from .. import plots
from ..evaluation.generation import Sampler
from ..inference import apply_plan, remove_plan
from ..inference.patching import patch_of
from ..params import ROOT, resolve
from ..plan import ExpertPlan
from ..plan.file import PlanError
from ..plots.layers import blocks, letter_of
from .edits import differences, rerouted, save_edited, toggled
from .sampler_panel import SamplerPanel
from .view import WIDE, note, row
from .words import layer_text, paragraph

PICTURES = 4
TOGGLE = {"width": "46px", "margin": "1px", "padding": "0"}
LOOK = f'style="max-width: {100 * plots.style.WIDTH:g}px; width: 100%"'


class WhatIf(widgets.VBox):
    """`plan` is what the edits made of the plan given; toggles show one expert's mask.

    layers: a ToggleButton a prunable layer, pressed = runs; interval, target, reroute: timesteps to another expert;
    path, save; prompt, generate (with a pipeline only); said: the latest outcome in words.
    """

    plan = traitlets.Instance(ExpertPlan)

    def __init__(self, plan: ExpertPlan, pipeline: DiffusionPipeline | None, sampler: SamplerPanel, path: Path) -> None:
        super().__init__(plan=plan)
        self.before, self.expert, self.sampler, self.pipeline = plan, 0, sampler, pipeline
        self.said, self.pictures = widgets.HTML(), widgets.HTML()
        self.layers = [layer_toggle(plan, layer) for layer in range(len(plan.layer_names))]
        for layer, toggle in enumerate(self.layers):
            toggle.observe(lambda change, layer=layer: self._toggle(layer, change["new"]), "value")
        self.heading = widgets.HTML()
        parts = [self.heading, layer_groups(plan, self.layers), self._routing(), self._saving(path)]
        self.children = [*parts, *([self._generation()] if pipeline else []), self.said, self.pictures]
        self.select(plan.expert(0))

    def _routing(self) -> widgets.Box:
        last = self.plan.num_train_timesteps - 1
        self.interval = widgets.IntRangeSlider(
            value=(0, last // 10),
            min=0,
            max=last,
            description="timesteps",
            layout=WIDE,
        )
        self.target = widgets.Dropdown(
            options=range(self.plan.num_experts), description="to expert", layout={"width": "160px"}
        )
        self.reroute = button("Re-route", self._reroute, "serve these timesteps by that expert")
        self.reset = button("Undo all", self._reset, "back to the plan as it was")
        return row(self.interval, self.target, self.reroute, self.reset)

    def _saving(self, path: Path) -> widgets.Box:
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path  # an executed notebook keeps the text
        self.path = widgets.Text(str(shown), description="save as", layout=WIDE)
        self.save = button("Save plan", self._save, "write the edited plan as plan.json")
        return row(self.path, self.save)

    def _generation(self) -> widgets.Box:
        if isinstance(self.pipeline, DiTPipeline):
            self.prompt = widgets.Dropdown(
                options=sorted(self.pipeline.labels.items()), description="class", layout=WIDE
            )
        else:
            self.prompt = widgets.Text("red apple", description="prompt", layout=WIDE)
        self.generate = button("Generate", self._generate, f"seeds 0 to {PICTURES - 1}, before and after the edits")
        return row(self.prompt, self.generate)

    # --- the expert that is looked at ----------------------------------------------------------------------------

    def select(self, expert: int) -> None:
        """Show the mask of `expert` on the toggles."""
        self.expert = expert
        self.heading.value = paragraph(
            f"<b>What if expert {expert} ran other layers?</b> Pressed: runs. A red frame: changed. "
            "A cell of the heat map toggles its layer too."
        )
        for toggle, runs in zip(self.layers, self.plan.masks[expert].tolist(), strict=True):
            if toggle.value != runs:
                set_toggle(toggle, runs)

    def _toggle(self, layer: int, runs: bool) -> None:
        if bool(self.plan.masks[self.expert, layer]) != runs:  # pressed by hand; `select` follows the plan
            set_toggle(self.layers[layer], runs)
            self.plan = toggled(self.plan, self.expert, layer)
            self._say(f"{layer_text(self.plan, layer)}: now {'runs' if runs else 'is skipped'} "
                      f"in expert {self.expert}.")  # fmt: skip

    def press(self, layer: int) -> None:
        """Toggle a layer of the expert that is shown, as its button does; one whose weights are gone stays off."""
        toggle = self.layers[layer]
        if not toggle.disabled:
            toggle.value = not toggle.value

    def _reroute(self) -> None:
        first, last = self.interval.value
        self.plan = rerouted(self.plan, first, last, self.target.value)
        self._say(f"Timesteps {first} to {last} are served by expert {self.target.value}.")

    def _reset(self) -> None:
        self.plan = self.before
        self.select(self.expert)
        self._say("As it was.")

    # --- outcomes ------------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        count = len(differences(self.before, self.plan))
        self.said.value = note(
            f"{escape(text)} <b>{self.plan.macs_ratio():.2%} of the MACs over all timesteps</b> "
            f"({self.before.macs_ratio():.2%} before; {count} change{'s' if count != 1 else ''})."
        ).value

    def _save(self) -> None:
        try:
            self._say(f"Saved: {save_edited(self.before, self.plan, resolve(self.path.value))}.")
        except PlanError as error:
            self._say(f"Not saved. {error}.")

    def _generate(self) -> None:
        self.generate.disabled = True
        try:
            drawn = {"before": self._draw(self.before), "after": self._draw(self.plan)}
        except PlanError as error:
            return self._say(f"Not drawn. {error}.")
        finally:
            self.generate.disabled = False
        figure = plots.image_rows(drawn, [f"seed {i}" for i in range(PICTURES)])
        data = base64.b64encode(plots.png(figure)).decode()
        alt = f"seeds 0 to {PICTURES - 1}, above before and below after the edits"
        self.pictures.value = f'<img {LOOK} alt="{alt}" src="data:image/png;base64,{data}">'

    def _draw(self, plan: ExpertPlan) -> np.ndarray:
        """Pictures [n, H, W, 3] under `plan`; the pipeline is left with the plan that it had."""
        applied = patch_of(self.pipeline) and patch_of(self.pipeline).plan
        apply_plan(self.pipeline, plan)
        sampling = self.sampler.sampling
        sampler = Sampler(self.pipeline, sampling, sampling.steps)
        try:
            return sampler.draw([self.prompt.value] * PICTURES, range(PICTURES))
        finally:
            if applied:
                apply_plan(self.pipeline, applied)
            else:
                remove_plan(self.pipeline)


def button(text: str, action: Callable[[], None], tooltip: str) -> widgets.Button:
    made = widgets.Button(description=text, tooltip=tooltip, layout={"width": "110px"})
    made.on_click(lambda _: action())
    return made


def layer_toggle(plan: ExpertPlan, layer: int) -> widgets.ToggleButton:
    gone = plan.layer_names[layer] in plan.dropped_layers  # its weights are not there: it can't be switched on
    toggle = widgets.ToggleButton(
        disabled=gone, tooltip=layer_text(plan, layer), description=letter_of(plan.layer_names[layer]), layout=TOGGLE
    )
    set_toggle(toggle, False)
    return toggle


def set_toggle(toggle: widgets.ToggleButton, runs: bool) -> None:
    """Its state also by a sign, since colour alone is no mark."""
    with toggle.hold_sync():
        toggle.value, toggle.icon = runs, "check" if runs else "times"


def layer_groups(plan: ExpertPlan, toggles: list[widgets.ToggleButton]) -> widgets.Box:
    """The toggles by block, each block with its name."""
    groups = [
        widgets.HBox(
            [
                widgets.Label(label, layout={"min_width": "52px", "margin": "1px 2px 1px 10px"}),
                *toggles[first : last + 1],
            ]
        )
        for label, first, last in blocks(plan.layer_names)
    ]
    return row(*groups)
