"""What ranks the runs as their pictures do? Spearman's correlation of FID-AlexNet with what a run's plan is like."""

from collections.abc import Sequence

import pandas as pd

from .study import Study
from .summary import BY, of_runs

ELSEWHERE = ("table_10", "table_12", "plans", "longer")  # another budget, other updates, the plan of another run
LAST = ("up.2", "up.3")  # of tiny_sd's decoder: its most expensive layers are there


def comparable(study: Study) -> list[str]:
    """The names of the study's runs at ALTER's budget and updates, under plans of their own: any other difference
    would explain itself."""
    return [run.name for run in study.runs if run.group not in ELSEWHERE and run.variant != "unpruned"]


def stage_of(layers: pd.Series) -> pd.Series:
    """`mid` for a layer of mid_block, `up.3` of up_blocks.3, `transformer.0` of transformer_blocks.0."""
    return layers.str.replace(r"^(\w+?)_blocks?(\.\d+)?.*", r"\1\2", regex=True)


def kept_by_stage(layers: pd.DataFrame, by: str = "variant") -> pd.DataFrame:
    """Share of the MACs of each stage's prunable layers that is kept: a row a variant (mean over seeds) or `by`, a
    column a stage in execution order. layers: of `summary.layers`."""
    stage = stage_of(layers.layer)
    parts = layers.assign(stage=stage, kept=layers.kept * layers.macs).groupby([by, "stage"], sort=False)
    sums = parts[["kept", "macs"]].sum()
    return (sums.kept / sums.macs).unstack().reindex(columns=list(dict.fromkeys(stage)))


def changing(layers: pd.DataFrame) -> pd.DataFrame:
    """Do a plan's masks differ? Of the MACs that it skips over all timesteps, the share (`value`) of layers that are
    skipped at some timesteps and run at others, a row a run; 0: one mask for all. layers: of `summary.layers`."""
    skipped = layers.macs * (1 - layers.kept)
    sums = layers.assign(value=skipped.where(layers.kept > 0, 0), skipped=skipped)
    sums = sums.groupby(["run", *BY], sort=False)[["value", "skipped"]].sum()
    return (sums.value / sums.skipped).rename("value").reset_index()


def plan_measures(errors: pd.DataFrame, layers: pd.DataFrame, together: Sequence[str] = LAST) -> pd.DataFrame:
    """A row a run: mean L_outKD over the timesteps before and after fine-tuning, share of the MACs that is kept of each
    stage and of the stages `together`, and what `changing` says. errors, layers: of `summary.distillation` and
    `summary.layers`."""
    names = {"before": "L_outKD, the teacher's weights", "after": "L_outKD, fine-tuned"}
    means = errors.groupby("run")[list(names)].mean().rename(columns=names)
    some = layers[stage_of(layers.layer).isin(together)].assign(layer=" and ".join(together))
    differ = changing(layers).set_index("run").value.rename("changing masks")
    return pd.concat([means, kept_by_stage(layers, "run"), kept_by_stage(some, "run"), differ], axis=1)


def rank_correlations(table: pd.DataFrame, measures: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of FID-AlexNet with each of `plan_measures`, and the number of runs that have both. 1: the
    more a run has, the worse it is; -1: the better."""
    runs = measures.join(of_runs(table).set_index("run").value.rename("fid"), how="inner")
    pairs = {name: runs[[name, "fid"]].dropna() for name in measures}
    rows = [(pair.corr("spearman").iloc[0, 1], len(pair)) for pair in pairs.values()]
    return pd.DataFrame(rows, index=list(pairs), columns=["Spearman with FID", "runs"])
