"""The training dashboard: what one watches while a run trains, and what is left of it in the executed notebook."""

import time

import pandas as pd
from IPython.display import Image, display

from .. import plots
from ..params import Params
from ..plots.style import WIDTH
from ..run_folder.progress import clock
from ..training.history import HISTORY
from ..training.plan_history import PlanRecorder
from ..training.trainer import Trainer


class TrainingDashboard:
    """A callback of `train`: losses, ratios, masks and routing so far and the time left, repainted every few seconds.

    One picture that is updated in place, in JupyterLab as under papermill, whose executed notebook holds the last. It
    records how the plan changes on the way (plan_history.npz). A resumed run shows its whole history. Painting takes
    at most a twentieth of the time.
    """

    def __init__(self, params: Params, seconds: float = 5.0) -> None:
        self.params, self.seconds, self.recorder = params, seconds, PlanRecorder(params)
        path = params.run_folder / "history.csv"
        self.rows = pd.read_csv(path).to_dict("records") if path.exists() else []
        self.handle, self.due = None, time.monotonic() + seconds

    def __call__(self, trainer: Trainer, row: dict) -> None:
        self.recorder(trainer, row)
        while self.rows and self.rows[-1]["step"] >= row["step"]:  # made again since the last checkpoint
            self.rows.pop()
        self.rows.append(row)
        if time.monotonic() >= self.due or row["step"] == self.params.training.iterations:
            self.paint(trainer)

    def paint(self, trainer: Trainer) -> None:
        began, training = time.monotonic(), self.params.training
        history = pd.DataFrame(self.rows, columns=HISTORY)
        figure = plots.dashboard(
            history, trainer.current_plan(), self.recorder.history, training.hypernetwork_steps,
            progress_text(history, training.iterations, training.batch_size),
        )  # fmt: skip
        picture = Image(plots.png(figure), width=100 * WIDTH)
        if self.handle is None:
            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)
        now = time.monotonic()
        self.due = now + max(self.seconds, 20 * (now - began))


def progress_text(history: pd.DataFrame, total: int, batch_size: int) -> str:
    """ "step 120 of 400, 31 images/s, about 4m48s left at this speed"."""
    step, speed = history.step.iloc[-1], history.images_per_second.tail(20).median()
    if step >= total:
        return f"all {total} steps done, {speed:.0f} images/s at the end"
    left = clock((total - step) * batch_size / speed)
    return f"step {step} of {total}, {speed:.0f} images/s, about {left} left at this speed"
