"""The `training` section, and how its keys go together."""

import math
from typing import Any, Literal, Self

from pydantic import model_validator

from .values import Count, CountOrZero, Flag, Name, Positive, Precision, Section, ShareBelowOne, Text, Weight

# plans that alter_lib/baselines.py makes; training.plan takes a file as well
PLANS = ("random", "first", "last", "bk_sdm", "sensitivity", "sensitivity_intervals", "greedy", "greedy_intervals",
         "unpruned")  # fmt: skip


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


class Training(Section):
    steps: Count  # T_total, Algorithm 1: updates of the backbone
    hypernetwork_steps: CountOrZero  # T_end, Algorithm 1: updates of the hypernetwork
    order: Literal["joint", "two_stage"] = "joint"  # two_stage: Table 3's TwoStage, the backbone waits until T_end
    plan: Text | None = None  # a plan.json or a baseline's name to fine-tune the backbone under; no plan is learned
    batch_size: Count  # of all processes together
    learning_rate: Positive
    hypernetwork_learning_rate: Positive
    schedule: Literal["constant", "cosine"] = "constant"  # Appendix C: constant after a linear warm-up
    warmup_steps: CountOrZero = 250  # Appendix C
    ema_decay: ShareBelowOne = 0.0  # 0: off; the paper names none for SD2.1
    max_grad_norm: Positive | None = None
    weight_decay: Weight = 0.01  # AdamW's own default; the paper names none
    execution: Literal["sub_batch", "masked", "reference"] = "sub_batch"  # reference: the authors' procedure
    checkpoint_every: Count = 1000
    keep_checkpoints: Count = 2  # the last and spares: a damaged one is passed over for the one before
    max_skipped_steps: CountOrZero = 10  # with a NaN or infinite loss or gradient; one more stops the run
    correct_ratio: Flag = False  # smallest exact correction of a plan that ends off target
    routing_intervals: Count | None = None  # at T_end the routing is snapped to at most so many intervals
    snapshots: tuple[Count, ...] = ()  # updates of the backbone after which its weights are kept, for learning curves
    num_processes: Count = 1
    gradient_accumulation_steps: Count = 1  # micro-batches of a process's share: same gradients, less memory
    gradient_checkpointing: Flag = False  # prunable layers are run again in the backward pass: less memory, more time
    mixed_precision: Precision = "no"  # autocast; the student's weights stay float32
    teacher_dtype: Literal["bfloat16", "float16"] | None = None  # of the frozen teacher; null: the student's
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"  # 8-bit moments of theta (bitsandbytes); Phi is small
    lora_rank: CountOrZero = 0  # 0: all of theta is trained; else adapters of the attention projections (peft)
    compile: Literal["none", "teacher", "both"] = "none"  # torch.compile; of the student each prunable layer by itself
    trackers: Literal["auto"] | tuple[Name, ...] = "auto"  # accelerate's names; auto: tensorboard where installed

    @property
    def iterations(self) -> int:
        """Of the training loop: each updates one network or both."""
        return self.steps + (self.hypernetwork_steps if self.order == "two_stage" else 0)

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        if bad := training_faults(self):
            raise ValueError("\n".join(bad))
        return self
