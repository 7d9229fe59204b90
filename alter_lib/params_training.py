"""What the `training` section of Params may name, and how its keys go together."""

import math
from typing import Any

# plans that alter_lib/baselines.py makes; training.plan takes a file as well
PLANS = ("random", "first", "last", "bk_sdm", "sensitivity", "sensitivity_intervals", "unpruned")


def training_faults(values: Any) -> list[str]:
    """One line `key: what is wrong` for each key of a training section that does not go with the others."""
    return [*_lengths(values), *_batch(values), *_plan(values), *_snapshots(values)]


def _lengths(values: Any) -> list[str]:
    late = [key for key in ("hypernetwork_steps", "warmup_steps") if getattr(values, key) > values.steps]
    return [f"{key}: {getattr(values, key)} is not at most steps ({values.steps})" for key in late]


def _batch(values: Any) -> list[str]:
    parts = {key: getattr(values, key) for key in ("num_processes", "gradient_accumulation_steps")}
    named = {key: value for key, value in parts.items() if value > 1}
    if values.batch_size % math.prod(parts.values()) == 0:
        return []
    rule = f"a multiple of {' x '.join(named)} ({' x '.join(map(str, named.values()))})"
    return [f"batch_size: {values.batch_size} is not {rule}"]


def _plan(values: Any) -> list[str]:
    if values.plan is None or values.hypernetwork_steps == 0:
        return []
    return [f"hypernetwork_steps: {values.hypernetwork_steps} is not 0: under plan {values.plan} there is nothing left "
            "for a hypernetwork to learn"]  # fmt: skip


def _snapshots(values: Any) -> list[str]:
    bad = [f"snapshots: {updates} is not at most steps ({values.steps})" for updates in values.snapshots
           if updates > values.steps]  # fmt: skip
    if values.snapshots and values.lora_rank:
        bad.append(f"snapshots: {list(values.snapshots)} is not []: with lora_rank the weights are merged at the end")
    return bad
