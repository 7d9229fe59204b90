"""Interactive views for JupyterLab: live training curves and the mask inspector.

Pictures are drawn by matplotlib.figure.Figure (no pyplot, no Output widget), so they work in any front end that shows
ipywidgets; the keyboard moves a focused slider.
"""

import io
import time
from collections.abc import Sequence
from html import escape

import ipywidgets as widgets
import numpy as np
import pandas as pd
from diffusers import DiffusionPipeline
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image as PillowImage

from . import plots
from .params import Params
from .plan import ExpertPlan
from .plots.style import DPI, RED, WIDTH
from .schedules import visited_timesteps
from .training import HISTORY


class LiveCurves:
    """A callback of `train` that repaints the training curves every few seconds, in JupyterLab as under papermill.

    Steps of an earlier, interrupted call are read from history.csv: a resumed run shows its whole history. Painting
    takes at most a twentieth of the time.
    """

    def __init__(self, params: Params, seconds: float = 5.0) -> None:
        self.params, self.seconds = params, seconds
        path = params.run_folder / "history.csv"
        self.rows = pd.read_csv(path).to_dict("records") if path.exists() else []
        self.handle, self.due = None, time.monotonic() + seconds

    def __call__(self, _trainer: object, row: dict) -> None:
        while self.rows and self.rows[-1]["step"] >= row["step"]:  # made again since the last checkpoint
            self.rows.pop()
        self.rows.append(row)
        if time.monotonic() >= self.due or row["step"] == self.params.training.steps:
            self.paint()

    def paint(self) -> None:
        began = time.monotonic()
        history = pd.DataFrame(self.rows, columns=HISTORY)
        drawn = plots.live_curves(history, self.params.loss.target_ratio, self.params.training.hypernetwork_steps)
        picture = Image(plots.png(drawn[0].figure), width=100 * WIDTH)
        if self.handle is None:
            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)
        now = time.monotonic()
        self.due = now + max(self.seconds, 20 * (now - began))


class MaskInspector(widgets.VBox):
    """Sliders for timestep and expert over the mask picture: which layers run at a timestep, and at what cost.

    Moving the timestep chooses the expert that serves it; moving the expert looks at any other. `figure(t)` is the same
    picture without sliders, for readers without a kernel.

    Args:
        plan: the plan to look at.
        pipeline: its sampler's timesteps (of the latest run, else 20 steps) are marked.
    """

    def __init__(self, plan: ExpertPlan, pipeline: DiffusionPipeline | None = None) -> None:
        self.plan = plan
        scheduler = pipeline.scheduler if pipeline else None
        self.visited = visited_timesteps(scheduler, scheduler.num_inference_steps or 20) if scheduler else []
        self._canvas = FigureCanvasAgg(plots.overview(plan, self.visited))
        self._canvas.figure.set_dpi(0.7 * DPI)
        self._cursor = Cursor(self._canvas.figure.axes)
        self._canvas.draw()  # once: a move of a slider draws the cursor alone over this picture
        self._background = self._canvas.copy_from_bbox(self._canvas.figure.bbox)
        self.timestep = slider("timestep", plan.num_train_timesteps)
        self.expert = slider("expert", plan.num_experts)
        self.picture = widgets.Image(
            format="png", layout=widgets.Layout(max_width="100%", width=f"{100 * WIDTH:.0f}px")
        )
        self.text = widgets.HTML()
        self.expert.value = plan.expert(0)
        self.timestep.observe(self._follow, "value")
        self.expert.observe(self._show, "value")
        super().__init__([self.timestep, self.expert, self.picture, self.text])
        self._show()

    def figure(self, t: int, expert: int | None = None) -> Figure:
        """The picture at timestep `t`, of the expert that serves it or of another."""
        figure = plots.overview(self.plan, self.visited)
        Cursor(figure.axes).move(t, self.plan.expert(t) if expert is None else expert)
        return figure

    def _follow(self, _change: object = None) -> None:
        """The timestep moved: look at its expert."""
        before, self.expert.value = self.expert.value, self.plan.expert(self.timestep.value)
        if self.expert.value == before:  # else the expert's own observer has painted
            self._show()

    def _show(self, _change: object = None) -> None:
        t, expert = self.timestep.value, self.expert.value
        self._canvas.restore_region(self._background)
        self._cursor.move(t, expert)
        self._cursor.draw()
        self.picture.value = encoded(self._canvas)
        self.text.value = description(self.plan, t, expert)


def slider(name: str, count: int) -> widgets.IntSlider:
    return widgets.IntSlider(
        min=0, max=count - 1, description=name, layout=widgets.Layout(width=f"{100 * WIDTH:.0f}px")
    )


class Cursor:
    """What moves over the picture: a frame around the expert's row, a line at the timestep."""

    def __init__(self, axes: Sequence[Axes]) -> None:
        masks, routing = axes[:2]
        first, last = masks.get_xlim()
        self.frame = Rectangle(
            (first, 0), last - first, 1, fill=False, edgecolor=RED, linewidth=2, clip_on=False, zorder=5
        )
        masks.add_patch(self.frame)
        self.line = routing.axvline(0, color=RED, linewidth=1.5)
        for artist in (self.frame, self.line):
            artist.set_animated(True)

    def move(self, t: int, expert: int) -> None:
        self.frame.set_y(expert - 0.5)
        self.line.set_xdata([t, t])

    def draw(self) -> None:
        for artist in (self.frame, self.line):
            artist.axes.draw_artist(artist)


def encoded(canvas: FigureCanvasAgg) -> bytes:
    """The canvas as a PNG, compressed little: a move of a slider should feel immediate."""
    target = io.BytesIO()
    PillowImage.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(target, "PNG", compress_level=1)
    return target.getvalue()


def description(plan: ExpertPlan, t: int, expert: int) -> str:
    """HTML: which layers of the expert run and which are skipped, and its MACs."""
    serving, macs = plan.expert(t), plan.expert_macs()[expert]
    named = list(zip(plan.layer_names, plan.masks[expert].tolist(), strict=True))
    unit, scale = next(pair for pair in (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1)) if plan.cost.whole >= pair[1])
    lines = [f"<b>Timestep {t} is served by expert {serving}.</b> Shown: expert {expert}, {macs / scale:.4g} of "
             f"{plan.cost.whole / scale:.4g} {unit}MACs = {macs / plan.cost.whole:.1%} ({plan.cost.denominator}, "
             f"{plan.cost.convention}, {plan.cost.resolution[0]} x {plan.cost.resolution[1]} latents)."]  # fmt: skip
    for word, wanted in (("active", True), ("skipped", False)):
        names = [escape(name) for name, runs in named if runs == wanted]
        lines.append(f"<b>{len(names)} {word}:</b> {', '.join(names) or 'none'}")
    return "<br>".join(lines)
