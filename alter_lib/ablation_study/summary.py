"""Means over seeds with 95 % intervals, and differences paired by seed, from the tidy tables of `alter_lib.collect`.

Runs of one seed share batches, noise and prompts, so a difference to ALTER is taken seed by seed: what the seed does to
both falls out. Intervals are Student's t over seeds; one seed has none.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from ..collect import collect, merged
from ..params import resolve
from .study import Study

FID, ALTER, STEPS = "fid_alexnet", "alter", 20  # Table 3 is at 20 steps
BY = ("backbone", "variant")
COLUMNS = (  # that are read here and drawn
    "run", *BY, "training_seed", "method", "name", "steps", "value", "low", "high", "n", "updates", "num_experts",
    "experts_used", "switches", "achieved_ratio", "training_seconds", "evaluation_seconds",
)  # fmt: skip


def finished(study: Study, file: str = "metrics.json") -> tuple[pd.DataFrame, str]:
    """The figures of the study's finished runs, and where they are from: its folder of runs, the committed table for
    those that it lacks, or nowhere (no rows). file: `metrics.json` or `curve.json`."""
    committed = resolve(study.results) / {"metrics.json": "table.csv", "curve.json": "curves.csv"}[file]
    table = pd.DataFrame({column: pd.Series(dtype=float) for column in COLUMNS})
    sources = [f"{study.results}/{committed.name}"] if committed.is_file() else []
    try:
        table, _ = collect(resolve(study.out), file)
        sources = [study.out, *sources]
    except FileNotFoundError:
        pass
    table = merged(table, committed)
    planned = table[table.run.isin({run.name for run in study.runs})]
    return planned, " and ".join(sources) or "nowhere: no run is finished"


def distillation(study: Study) -> pd.DataFrame:
    """The committed table of `alter_lib.ablation_study.distillation`; no rows where there is none."""
    path = resolve(study.results) / "distillation.csv"
    columns = ("run", *BY, "training_seed", "first_timestep", "last_timestep", "macs_ratio", "before", "after")
    empty = pd.DataFrame({column: pd.Series(dtype=float) for column in columns})
    return pd.read_csv(path) if path.is_file() else empty


def layers(study: Study) -> pd.DataFrame:
    """The committed table of the layers that each plan keeps (`alter_lib.collect --layers`), or no rows."""
    path = resolve(study.results) / "layers.csv"
    columns = {"run": str, "backbone": str, "variant": str, "layer": str, "macs": float, "kept": float}
    empty = pd.DataFrame({column: pd.Series(dtype=kind) for column, kind in columns.items()})
    return pd.read_csv(path) if path.is_file() else empty


def of_runs(table: pd.DataFrame, name: str = FID) -> pd.DataFrame:
    """The rows of one figure of the pruned pipelines at STEPS steps, one a run."""
    return table[(table.name == name) & (table.method == ALTER) & (table.steps == STEPS)]


def relative(table: pd.DataFrame) -> pd.DataFrame:
    """`of_runs` with FID-AlexNet in units of the unpruned teacher's at as many steps: 1 is as good as the teacher."""
    teacher = table[(table.name == FID) & (table.method == "teacher") & (table.steps == STEPS)].set_index("run").value
    rows = of_runs(table)
    return rows.assign(value=rows.value / rows.run.map(teacher).astype(float))  # of no row: of text


def interval(values: np.ndarray) -> tuple[float, float, float, int]:
    """Mean of `values` [n] over seeds, its 95 % interval by Student's t (not-a-number for one seed), and n."""
    n, mean = len(values), float(np.mean(values))
    half = stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / n**0.5 if n > 1 else np.nan
    return mean, mean - half, mean + half, n


def summary(rows: pd.DataFrame, by: Sequence[str] = BY) -> pd.DataFrame:
    """mean, low, high, seeds of `value` by the columns `by`, in the order of first appearance."""
    groups = rows.groupby(list(by), sort=False).value
    found = [(*key, *interval(values.to_numpy(float))) for key, values in groups]
    return pd.DataFrame(found, columns=[*by, "mean", "low", "high", "seeds"]).set_index(list(by))


def differences(rows: pd.DataFrame, by: Sequence[str] = BY, against: str = ALTER) -> pd.DataFrame:
    """`summary` of the value less that of the variant `against` at the same backbone and seed (and whatever else `by`
    names); seeds that only one of the two has are left out."""
    shared = ["backbone", "training_seed", *(name for name in by if name not in BY)]
    base = rows[rows.variant == against].set_index(shared).value
    change = rows.value.to_numpy() - base.reindex(pd.MultiIndex.from_frame(rows[shared])).to_numpy()
    paired = rows.assign(value=change).dropna(subset="value")
    return summary(paired[paired.variant != against], by)


def ranking(table: pd.DataFrame) -> pd.DataFrame:
    """All variants, best first on each backbone: `summary` of `relative` figures, and their difference to ALTER's."""
    rows = relative(table)
    best_first = summary(rows).sort_values("mean").sort_index(level=0, sort_remaining=False, kind="stable")
    return best_first.join(differences(rows)[["mean", "low", "high"]].add_suffix(" less ALTER's"))


def slopes(rows: pd.DataFrame, places: Mapping[str, float]) -> pd.DataFrame:
    """How sure is a trend? The slope of a straight line through `value` against the place of each variant, fitted seed
    by seed, as `summary`, a row a backbone; of seeds that have every variant. places: {variant: where it stands}."""
    rows = rows[rows.variant.isin(places)]
    values = rows.pivot_table(index=["backbone", "training_seed"], columns="variant", values="value", sort=False)
    values = values.reindex(columns=list(places)).dropna()
    fits = [np.polyfit(list(places.values()), each, 1)[0] for each in values.to_numpy()]
    return summary(pd.DataFrame({"value": fits}, index=values.index).reset_index(), ["backbone"])


def noise_or_detail(errors: pd.DataFrame) -> pd.DataFrame:
    """When a plan spends its MACs: `summary` of their ratio in the noisy half (t >= T / 2, where sampling begins) less
    that in the other half, a value a run. Above zero: early in sampling. errors: of `distillation`."""
    noisy = errors.first_timestep >= (errors.last_timestep.max() + 1) / 2
    halves = errors.assign(noisy=noisy).groupby([*BY, "training_seed", "noisy"], sort=False).macs_ratio.mean().unstack()
    halves = halves.reindex(columns=[True, False])  # no run: no columns
    return summary((halves[True] - halves[False]).rename("value").reset_index())


def facts(table: pd.DataFrame) -> pd.DataFrame:
    """What the plans of each variant are like, means over seeds: active MACs, experts in use, switches of the expert
    over all timesteps (Fig. 4b: flicker or intervals), and the hours that training and evaluation took."""
    rows = of_runs(table)
    columns = {"achieved_ratio": "active MACs", "num_experts": "experts", "experts_used": "in use",
               "switches": "switches"}  # fmt: skip
    found = rows.groupby(list(BY), sort=False)[list(columns)].mean().rename(columns=columns)
    seconds = rows.groupby(list(BY), sort=False)[["training_seconds", "evaluation_seconds"]].sum().sum(axis=1)
    return found.assign(hours=seconds / 3600)
