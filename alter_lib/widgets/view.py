"""A plan on the page: the drawing, the cursor over it, and words. Inspector and comparison are made of these."""

import base64
from collections.abc import Sequence
from itertools import count
from typing import Any
from uuid import uuid4

import ipywidgets as widgets

from .. import plots
from ..plan import ExpertPlan
from . import html, words
from .drawing import PlanDrawing

WIDE = {"flex": "1 1 300px", "width": "auto"}  # a control that takes what room there is in a row
_NUMBERS, _KERNEL = count(), uuid4().hex[:8]  # outputs of an earlier kernel may still be on the page


class PlanView(widgets.VBox):
    """Masks, routing and MACs of a plan with a cursor. `show` draws, `point` moves the cursor.

    picture: the drawing; pointer, text: HTML widgets. A move sends the small last two only.
    """

    def __init__(self, plan: ExpertPlan, visited: Sequence[int] = ()) -> None:
        self.scope = f"alter-{_KERNEL}-{next(_NUMBERS)}"
        self.picture, self.pointer, self.text = PlanDrawing(), widgets.HTML(), widgets.HTML()
        self.pointer.layout.display = "none"  # a style sheet takes no place
        super().__init__([self.pointer, self.picture, self.text])
        self.add_class(self.scope)
        self.show(plan, visited)

    def show(self, plan: ExpertPlan, visited: Sequence[int] = (), before: ExpertPlan | None = None) -> None:
        self.plan = plan
        self.picture.value = html.drawing(plan, visited, before)

    def point(self, t: int, expert: int) -> None:
        self.pointer.value = html.pointer(self.scope, self.plan, t, expert)
        self.text.value = words.description(self.plan, t, expert)


class WithPicture(widgets.VBox):
    """A widget whose display carries a static PNG too: for GitHub, the report, and whoever has no kernel."""

    def static(self) -> bytes:
        """The PNG."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **keywords: Any) -> dict[str, Any]:
        return {**super()._repr_mimebundle_(**keywords), "image/png": base64.b64encode(self.static()).decode()}


def timestep_slider(num_train_timesteps: int) -> tuple[widgets.Play, widgets.IntSlider]:
    """A slider over 0..T-1, and a play button that passes over it in about ten seconds."""
    last = num_train_timesteps - 1
    slider = widgets.IntSlider(min=0, max=last, description="timestep", layout=WIDE)
    play = widgets.Play(min=0, max=last, step=max(1, num_train_timesteps // 100), interval=100)
    widgets.jslink((play, "value"), (slider, "value"))
    return play, slider


def row(*children: widgets.Widget) -> widgets.Box:
    """Side by side while there is room."""
    layout = widgets.Layout(display="flex", flex_flow="row wrap", align_items="center")
    return widgets.Box(children, layout=layout)


def note(text: str) -> widgets.HTML:
    return widgets.HTML(words.paragraph(text))


def png_of(plan: ExpertPlan, visited: Sequence[int], t: int) -> bytes:
    return plots.png(plots.overview(plan, visited, t))
