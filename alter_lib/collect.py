"""One tidy table from the metrics.json of many runs: a row a figure, with what sets its run apart.

python -m alter_lib.collect runs/ablations --out results/ablations/table.csv      (or .parquet)
python -m alter_lib.collect runs/ablations --out table.csv --curves curves.csv    (and the learning curves)
    ... --layers layers.csv                                     (and how often each prunable layer runs)
    ... --keep                                                   (the rows of other runs that the files have stay)
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from .common.command_line import Parser, exit_code
from .common.files import whole
from .plan import ExpertPlan, PlanError
from .training.history import training_seconds

NAME = re.compile(r"(?P<backbone>.+?)-(?P<variant>.+)-s(?P<seed>\d+)")  # as workflow/Snakefile names its runs


def run_facts(folder: Path) -> dict[str, Any]:
    """What the params and the plan of a run say: variant, seed, budget, training length, shape of the routing, seconds.

    training_seconds: all steps, interrupted or not; the others are those of the last call. Raises
    FileNotFoundError where the run is not finished, PlanError for a plan that does not read.
    """
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    seconds = json.loads((folder / "provenance.json").read_text(encoding="utf-8")).get("wall_seconds", {})
    plan, batch_size = ExpertPlan.load(folder / "alter"), params["training"]["batch_size"]
    named = NAME.fullmatch(folder.name)
    return {
        "run": folder.name,
        "backbone": named["backbone"] if named else Path(params["backbone"]["id"]).name,
        "variant": named["variant"] if named else folder.name,
        "training_seed": params["run"]["seed"],
        "updates": params["training"]["steps"],
        "training_batch_size": batch_size,
        "target_ratio": params["loss"]["target_ratio"],
        "achieved_ratio": plan.achieved_ratio,
        "num_experts": plan.num_experts,
        "experts_used": len(plan.routing.unique()),
        "switches": int((plan.routing.diff() != 0).sum()),
        **{f"{what}_seconds": value for what, value in seconds.items()},
        "training_seconds": training_seconds(folder, batch_size),
    }


def collect(folder: Path, file: str = "metrics.json") -> tuple[pd.DataFrame, list[str]]:
    """The table of all evaluated runs in `folder`, and a line for each run that is left out. file: of the figures,
    `metrics.json` or `curve.json`. Raises FileNotFoundError where no run has that file."""
    frames, left_out = [], []
    for run in sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."):
        try:
            facts = run_facts(run)
            metrics = json.loads((run / file).read_text(encoding="utf-8"))["metrics"]
        except (FileNotFoundError, PlanError) as error:
            left_out.append(f"{run.name}: {getattr(error, 'filename', None) or error}: not there, run it first")
            continue
        frame = pd.DataFrame(metrics)
        frame[["low", "high"]] = [each if isinstance(each, list) else (None, None) for each in frame.pop("interval")]
        frames.append(frame.assign(**{key: value for key, value in facts.items() if key not in frame}))
    if not frames:
        raise FileNotFoundError(f"{folder}: no evaluated run in it (with a {file})")
    table = pd.concat(frames, ignore_index=True)
    first = ["run", "backbone", "variant", "training_seed", "method", "name", "steps", "value", "low", "high"]
    return table[[*first, *(column for column in table if column not in first)]], left_out


def kept_layers(runs: Iterable[Path]) -> pd.DataFrame:
    """A row a prunable layer of each run folder, in execution order: its macs as a share of all, and `kept`, the share
    of the T timesteps at which it runs."""
    frames = []
    for run in runs:
        facts, plan = run_facts(run), ExpertPlan.load(run / "alter")
        of_run = {name: facts[name] for name in ("run", "backbone", "variant", "training_seed", "achieved_ratio")}
        kept = plan.masks[plan.routing].double().mean(0).tolist()
        macs = [each / plan.cost.total for each in plan.cost.layers]
        frames.append(pd.DataFrame({**of_run, "layer": plan.layer_names, "macs": macs, "kept": kept}))
    return pd.concat(frames, ignore_index=True)


def merged(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """`table`, before it the rows that the file `path` has of other runs. Without the file, `table`."""
    if not path.is_file():
        return table
    kept = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    kept = kept[~kept.run.isin(table.run)]
    return pd.concat([kept, table], ignore_index=True) if len(kept) else table


def write_table(table: pd.DataFrame, path: Path) -> None:
    """CSV or, by the suffix, parquet; whole or not at all."""
    with whole(path) as partial:
        table.to_parquet(partial) if path.suffix == ".parquet" else table.to_csv(partial, index=False)


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of runs")
    parser.add_argument("--out", type=Path, required=True, help="FILE.csv or FILE.parquet")
    parser.add_argument("--curves", type=Path, help="likewise, for the learning curves")
    parser.add_argument("--layers", type=Path, help="likewise, for the layers that each plan keeps")
    parser.add_argument("--keep", action="store_true", help="keep the rows of other runs that the files have")
    options = parser.parse_args()

    def work() -> None:
        merge = merged if options.keep else lambda table, _: table
        table, left_out = collect(options.folder)
        runs = [options.folder / name for name in table.run.unique()]
        table = merge(table, options.out)
        write_table(table, options.out)
        print(*left_out, f"{table['run'].nunique()} runs, {len(table)} figures in {options.out}", sep="\n")
        if options.curves and not any(options.folder.glob("*/curve.json")):  # a study may have none, or none left
            print(f"no learning curve in {options.folder}")
        elif options.curves:
            curves = merge(collect(options.folder, "curve.json")[0], options.curves)
            write_table(curves, options.curves)
            print(f"{curves['run'].nunique()} learning curves in {options.curves}")
        if options.layers:
            layers = merge(kept_layers(runs), options.layers)
            write_table(layers, options.layers)
            print(f"the layers of {layers['run'].nunique()} plans in {options.layers}")

    return exit_code(work, options.debug)


if __name__ == "__main__":
    sys.exit(main())
