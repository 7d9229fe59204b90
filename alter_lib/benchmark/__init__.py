"""What the pruned MACs are worth on the clock.

    python -m alter_lib.benchmark --params params/tiny_sd.yaml --out results/benchmark/cpu.json
    python -m alter_lib.benchmark --workloads sd21_768 --batch-sizes 1 --repeats 9 --no-training --out gpu.json
    python -m alter_lib.benchmark --workloads dit_xl2_256 --device cpu --dtype float32 --batch-sizes 8 --methods ALTER

Methods: calls of one denoiser unpruned, under a plan, under other methods and combinations, eager and compiled, at the
sizes of `workloads.py`. Forward: a call under the run's own plan and under seeded random ones. Training step: execution
`sub_batch` against `reference` (the authors' procedure) and `masked`. Everything takes turns within a round and ratios
are taken round by round, so that a machine that slows down slows all alike.
"""

from .forward import forwards, random_mask, random_plan, spread, time_forward
from .methods import measure
from .training import pin, trainers, training_steps
from .workloads import WORKLOADS, Workload

__all__ = ["WORKLOADS", "Workload", "forwards", "measure", "pin", "random_mask", "random_plan", "spread",
           "time_forward", "trainers", "training_steps"]  # fmt: skip
