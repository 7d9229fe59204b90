"""How the plan changed while it was learned: masks and routing of a run at some of its steps, in plan_history.npz."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from ..common.files import whole
from ..params import Params
from ..plan import ExpertPlan

if TYPE_CHECKING:
    from .trainer import Trainer

FILE_NAME = "plan_history.npz"
SNAPSHOTS = 50  # about as many in a run: enough for a picture, and a few kilobytes


@dataclass(frozen=True)
class PlanHistory:
    """steps int64 [S], ascending; masks bool [S, N_e, N_L] and routing int64 [S, T] after each of these steps."""

    steps: np.ndarray
    masks: np.ndarray
    routing: np.ndarray

    @classmethod
    def load(cls, run_folder: Path) -> Self:
        """What PlanRecorder left in a run folder. Raises FileNotFoundError where it never recorded."""
        with np.load(run_folder / FILE_NAME) as arrays:
            return cls(arrays["steps"], arrays["masks"], arrays["routing"].astype(np.int64))

    def plan(self, index: int, like: ExpertPlan) -> ExpertPlan:
        """The recorded plan of steps[index]; layers, costs and backbone are those of `like`."""
        made = {**like.provenance, "training_step": int(self.steps[index])}
        masks, routing = torch.from_numpy(self.masks[index]), torch.from_numpy(self.routing[index])
        return replace(like, masks=masks, routing=routing, provenance=made)


class PlanRecorder:
    """A callback of `train` that keeps the plan of about SNAPSHOTS steps, the last one of the hypernetwork among them.

    After T_end the plan stands, and nothing is recorded. A resumed run goes on with the record; steps that are made
    again replace those that were lost with the interruption.
    """

    def __init__(self, params: Params) -> None:
        self.last = max(1, params.training.hypernetwork_steps)  # a given plan: recorded once, at the first step
        self.every = max(1, self.last // SNAPSHOTS)
        self.path = params.run_folder / FILE_NAME
        self.steps, self.masks, self.routing = [], [], []
        if self.path.exists():
            found = PlanHistory.load(params.run_folder)
            self.steps, self.masks, self.routing = found.steps.tolist(), list(found.masks), list(found.routing)

    def __call__(self, trainer: "Trainer", row: dict) -> None:
        step = row["step"]
        while self.steps and self.steps[-1] >= step:  # made again since the last checkpoint
            self._drop_last()
        is_due = step == 1 or step % self.every == 0 or step == self.last
        if is_due and step <= self.last and trainer.accelerator.is_main_process:
            self.steps.append(step)
            self.masks.append(trainer.masks.numpy().copy())
            self.routing.append(trainer.routing.numpy().copy())
            self._save()

    def _drop_last(self) -> None:
        for kept in (self.steps, self.masks, self.routing):
            kept.pop()

    @property
    def history(self) -> PlanHistory:
        """What was recorded so far, at least one step."""
        return PlanHistory(np.array(self.steps), np.stack(self.masks), np.stack(self.routing))

    def _save(self) -> None:
        history = self.history
        with whole(self.path) as partial, partial.open("wb") as file:
            np.savez_compressed(
                file, steps=history.steps, masks=history.masks, routing=history.routing.astype(np.int16)
            )
