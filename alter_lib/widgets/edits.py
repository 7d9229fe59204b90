"""What-if: a plan changed by hand, what was changed, and how it is saved. No kernel, no widget."""

from dataclasses import replace
from pathlib import Path

import torch

from ..plan import ExpertPlan
from ..plan.file import PlanError, encode_routing, plan_path

EDITED = "edited_by_hand"  # key of a saved plan's provenance: the list of what was changed


def toggled(plan: ExpertPlan, expert: int, layer: int) -> ExpertPlan:
    """`plan` with one entry of one mask flipped."""
    masks = plan.masks.clone()
    masks[expert, layer] ^= True
    return replace(plan, masks=masks)


def rerouted(plan: ExpertPlan, first: int, last: int, expert: int) -> ExpertPlan:
    """`plan` with timesteps first..last, both ends included, served by `expert`."""
    routing = plan.routing.clone()
    routing[first : last + 1] = expert
    return replace(plan, routing=routing)


def differences(before: ExpertPlan, after: ExpertPlan) -> list[str]:
    """What was changed, a line a layer of an expert or an interval of timesteps."""
    flipped = (before.masks != after.masks).nonzero().tolist()
    lines = [f"expert {expert} {'runs' if after.masks[expert, layer] else 'skips'} {after.layer_names[layer]}"
             for expert, layer in flipped]  # fmt: skip
    moved = torch.where(before.routing != after.routing, after.routing, -1)  # -1: as it was
    return lines + [f"timesteps {first}..{last} go to expert {expert}"
                    for first, last, expert in encode_routing(moved.tolist()) if expert >= 0]  # fmt: skip


def save_edited(before: ExpertPlan, after: ExpertPlan, path: str | Path) -> Path:
    """Write `after`, with what was changed in its provenance; returns the file. A learned plan is not overwritten.

    path: a .json file, or a folder that is to hold plan.json. Raises PlanError, one line, where it can't be written.
    """
    target = Path(plan_path(path))
    try:
        if target.exists() and EDITED not in ExpertPlan.load(target).provenance:
            raise PlanError(f"{path}: holds a plan that was not edited here; choose another path")
        made = {**after.provenance, EDITED: differences(before, after)}
        replace(after, provenance=made).save(target)
    except OSError as error:
        raise PlanError(f"{path}: cannot be written: {error.strerror}") from None
    return target
