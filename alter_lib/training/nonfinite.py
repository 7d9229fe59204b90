"""A step whose loss or gradients are NaN or infinite: left out, named, and at some number of them the end of a run."""

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..common.faults import Failed

if TYPE_CHECKING:
    from ..data.latents import Batches

# which phase of Algorithm 1 a column of history.csv belongs to; all other losses are of the backbone phase
OF_HYPERNETWORK = ("L_H", "L_perf", "L_ratio", "L_balance", "hypernetwork_grad_norm")
NORMS = ("grad_norm", "hypernetwork_grad_norm")


class NonFinite(Failed):
    """More steps than training.max_skipped_steps had a NaN or infinite loss or gradient."""


class StepGuard:
    """Looks at each row of the history. The optimizers leave such a step out, so the weights stay finite."""

    def __init__(self, limit: int, has_loss_scale: bool) -> None:
        """limit: training.max_skipped_steps. has_loss_scale: of fp16, whose gradients overflow now and then as it is
        being found; they count only where a loss is not finite, either."""
        self.limit, self.has_loss_scale, self.skipped = limit, has_loss_scale, 0

    def check(self, row: Mapping[str, float | str], batches: "Batches", number: int) -> None:
        """number: of the batch that the row comes from. Raises NonFinite beyond the limit, else prints one line."""
        names = [name for name in row if name.startswith("L_") or name in NORMS and not self.has_loss_scale]
        bad = [name for name in names if not math.isfinite(row[name])]
        if not bad:
            return
        phase = "hypernetwork" if bad[0] in OF_HYPERNETWORK else "backbone"
        samples = ", ".join(str(index) for index, _ in batches.places(number, 0, 1))
        batch = f"batch {number} (samples {samples})"
        what = f"training: step {row['step']}, {phase} phase, {batch}: {bad[0]} is {row[bad[0]]:g}"
        self.skipped += 1
        if self.skipped > self.limit:
            raise NonFinite(
                f"{what}; {self.limit} such steps may be skipped (training.max_skipped_steps): stopped, "
                "the last checkpoint is from before"
            )
        print(f"{what}: not applied, the {self.skipped}. of at most {self.limit}", file=sys.stderr)
