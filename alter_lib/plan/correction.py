"""The smallest correction that brings a plan's ratio to its target: fewest mask entries flipped, exact."""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from torch import Tensor

from .file import PlanError

if TYPE_CHECKING:
    from .expert_plan import ExpertPlan

SEARCH_LIMIT = 200_000  # steps of the search before it gives up; a plan of 10 experts and 34 layers takes about 100


def corrected_masks(plan: "ExpertPlan", target: float, tolerance: float) -> Tensor:
    """Masks [N_e, N_L] with the fewest entries flipped such that |ratio - target| <= tolerance * target over all T.

    A flip of entry (i, l) changes the cost summed over all T by c_l times the number of timesteps of expert i, so this
    is a search for the smallest subset of signed integers whose sum falls into a window. Raises PlanError where there
    is none.
    """
    if not 0 < target <= 1 or not 0 <= tolerance < 1:
        raise PlanError(f"target_ratio: {target} within {tolerance}; allowed: (0, 1] within [0, 1)")
    served = plan.routing.bincount(minlength=plan.num_experts).tolist()
    whole = plan.budget.whole * plan.num_train_timesteps
    excess = sum(macs * n for macs, n in zip(plan.expert_macs(plan.budget), served, strict=True)) - target * whole
    entries = [(i, layer) for i in range(plan.num_experts) if served[i] for layer in range(len(plan.layer_names))]
    # what each flip takes away: positive where it switches a layer off, negative where it switches one on
    sign = (plan.masks.int() * 2 - 1).tolist()
    change = {(i, layer): sign[i][layer] * served[i] * plan.budget.layers[layer] for i, layer in entries}
    entries = sorted((entry for entry in entries if change[entry]), key=lambda entry: -change[entry])
    slack = tolerance * target * whole
    found = smallest_subset([change[entry] for entry in entries], excess - slack, excess + slack)
    if found is None:
        raise PlanError(
            f"target_ratio: no masks of these experts give {target} within {tolerance:.1%}; "
            f"the plan has {plan.achieved_ratio:.4f}"
        )
    masks = plan.masks.clone()
    for index in found:
        masks[entries[index]] ^= True
    return masks


def smallest_subset(values: Sequence[int], low: float, high: float) -> list[int] | None:
    """Indices of the fewest `values` (sorted, descending) whose sum lies in [low, high]; None if there are none."""
    sums = list(accumulate(values, initial=0))
    for size in range(len(values) + 1):
        if sums[size] >= low and sums[-1] - sums[len(values) - size] <= high:
            found = subset_of_size(values, sums, size, low, high)
            if found is not None:
                return found
    return None


def subset_of_size(values: Sequence[int], sums: Sequence[int], size: int, low: float, high: float) -> list[int] | None:
    """Depth-first search, largest values first, cut where the rest can no longer reach the window."""
    stack: list[tuple[int, int, tuple[int, ...]]] = [(0, 0, ())]  # next index, sum so far, indices so far
    for _ in range(SEARCH_LIMIT):
        if not stack:
            return None
        index, total, chosen = stack.pop()
        left = size - len(chosen)
        if index + left > len(values):
            continue
        largest = total + sums[index + left] - sums[index]
        smallest = total + sums[-1] - sums[len(values) - left]
        if largest < low or smallest > high:
            continue
        if left == 0:
            return list(chosen)
        after_equals = next((i for i in range(index, len(values)) if values[i] != values[index]), len(values))
        stack.append((after_equals, total, chosen))  # leaving one of equal values out leaves them all out
        stack.append((index + 1, total + values[index], (*chosen, index)))
    raise PlanError(f"target_ratio: no correction by {size} mask entries found in {SEARCH_LIMIT} steps of the search")
