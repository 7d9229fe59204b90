"""The drawing of a plan as a widget whose cells answer to the mouse and to keys."""

from collections.abc import Callable
from pathlib import Path

import anywidget
import traitlets


class PlanDrawing(anywidget.AnyWidget):
    """`value`: HTML of `html.drawing`. A cell of its heat map names itself on the page, without the kernel."""

    _esm = Path(__file__).with_name("drawing.js")
    value = traitlets.Unicode().tag(sync=True)

    def on_press(self, action: Callable[[int, int], None]) -> None:
        """Call `action(expert, layer)` when a cell is clicked, and at Enter or Space on it."""
        self.on_msg(lambda _widget, content, _buffers: action(content["expert"], content["layer"]))
