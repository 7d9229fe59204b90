"""Where a variant loses: what its plan costs before and after fine-tuning, by interval of timesteps.

    python -m alter_lib.ablation_study.distillation runs/ablations --out results/ablations/distillation.csv [--keep]

L_outKD (paper §3.3), the mean squared difference to the unpruned teacher's prediction at the same x_t, over training
samples with noise of their own: `before` with the teacher's weights under the run's plan, so the choice of layers
alone; `after` with the run's weights. A plan that is better from the start and a training that gets further under its
plan are told apart so. Reads run folders with an artefact in them.
"""

import argparse
import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from ..backbones import denoiser_of, load_backbone
from ..baselines import evenly_timed
from ..collect import merged, run_facts, write_table
from ..common.command_line import Parser, exit_code
from ..data.latents import Batches
from ..hypernetwork import equal_intervals
from ..inference import apply_plan, load_pipeline
from ..losses import interval_means, sample_errors
from ..params import load_params
from ..plan import ExpertPlan
from ..training.objective import Objective

SEED = 1_000_003  # of the noise: none of a training's
FACTS = ("run", "backbone", "variant", "training_seed", "achieved_ratio")


@torch.no_grad()
def distillation_errors(run_folder: Path, num_intervals: int = 10, samples: int = 1000) -> pd.DataFrame:
    """A row an interval of timesteps: first and last timestep, macs_ratio of the plan there, L_outKD before and after.

    Raises FileNotFoundError where the run has no artefact.
    """
    params = load_params(run_folder / "params.yaml")
    plan = ExpertPlan.load(run_folder / "alter")
    backbone = load_backbone(params.backbone, cost=params.cost)
    teacher = backbone.denoiser.eval()
    before = copy.deepcopy(teacher)
    apply_plan(before, plan)
    after = denoiser_of(load_pipeline(run_folder / "alter", dtype=teacher.dtype)).to(teacher.device).eval()
    objective = Objective(teacher, before, backbone.pipeline.scheduler.config, params.loss)
    batches = Batches(backbone.pipeline, params.data, params.sampling.batch_size, SEED)
    intervals = equal_intervals(backbone.num_train_timesteps, num_intervals)
    errors, interval = [], []
    for batch in evenly_timed(batches, params.sampling.batch_size, backbone.num_train_timesteps, samples):
        noised = objective.noise(batch)
        inputs = (noised.x_t, noised.device_timesteps, noised.condition)
        whole = teacher(*inputs, return_dict=False)[0]
        both = [sample_errors(network(*inputs, return_dict=False)[0], whole) for network in (before, after)]
        errors.append(torch.stack(both, dim=1))
        interval.append(intervals[batch.timesteps])
    means = interval_means(torch.cat(errors), torch.cat(interval), num_intervals)
    return pd.DataFrame(rows_of(plan, intervals, means))


def rows_of(plan: ExpertPlan, intervals: torch.Tensor, errors: torch.Tensor) -> Iterator[dict[str, float]]:
    for index, (before, after) in enumerate(errors.tolist()):
        timesteps = (intervals == index).nonzero().flatten().tolist()
        yield {"first_timestep": timesteps[0], "last_timestep": timesteps[-1],
               "macs_ratio": plan.macs_ratio(timesteps), "before": before, "after": after}  # fmt: skip


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of runs")
    parser.add_argument("--out", type=Path, required=True, help="FILE.csv or FILE.parquet")
    parser.add_argument("--samples", type=int, default=1000, help="of each run (default 1000)")
    parser.add_argument("--keep", action="store_true", help="keep the rows of other runs that the file has")
    options = parser.parse_args()

    def work() -> None:
        runs, frames = sorted(path.parent.parent for path in options.folder.glob("*/alter/model_index.json")), []
        if not runs:
            raise FileNotFoundError(f"{options.folder}: no run in it that has an artefact")
        for run in tqdm(runs, unit="run"):
            facts = run_facts(run)
            found = distillation_errors(run, samples=options.samples)
            frames.append(pd.DataFrame({name: facts[name] for name in FACTS}, index=found.index).join(found))
        table = pd.concat(frames, ignore_index=True)
        write_table(merged(table, options.out) if options.keep else table, options.out)
        print(table.groupby(["backbone", "variant"])[["before", "after"]].mean().to_string())

    return exit_code(work, options.debug)


if __name__ == "__main__":
    sys.exit(main())
