"""The paper's ablation tables with ours beside them: means over seeds with 95 % intervals, differences paired by seed.

Other data, other networks, other feature extractors: orders and trends may be compared, values may not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from ..evaluation.paper_tables import paper_table
from .study import Study
from .summary import ALTER, differences, of_runs, relative, summary


@dataclass(frozen=True)
class Comparison:
    """rows: {variant of ours: the paper's row at 20 steps, or none}; paper: number of the table that these are in;
    against: the variant that differences are taken to."""

    title: str
    rows: dict[str, str]
    paper: str | None = None
    against: str = ALTER


def unprinted(title: str, *variants: str, against: str = ALTER) -> Comparison:
    """A comparison that the paper does not make."""
    return Comparison(title, dict.fromkeys(variants, ""), against=against)


COMPARISONS = {
    "3": Comparison("Table 3: routing and training", {
        "static": "Static", "manual": "Manual", "two_stage": "TwoStage", "alter": "ALTER 0.65",
        "inputs_per_expert": ""}, "3"),
    "10": Comparison("Table 10: target ratio (the paper's figures: Table 1 at the same ratios)", {
        "ratio_50": "ALTER 0.50", "ratio_55": "ALTER 0.55", "ratio_60": "ALTER 0.60", "alter": "ALTER 0.65",
        "ratio_70": "", "ratio_80": ""}, "1"),
    "11": Comparison("Table 11: terms of the loss, one expert", {
        "denoise_only": "denoise", "no_feature_kd": "+ outKD", "static": "+ featKD", "no_output_kd": ""},
        "11", "static"),
    "12": Comparison("Table 12: fine-tuning after T_end", {
        "stop_at_t_end": "ALTER 0.65 at T_end", "alter": "ALTER 0.65 at T_total"}, "12"),
    "baselines": unprinted("Plans that nobody learned, as many updates; unpruned: the control at ratio 1",
        "random", "first", "last", "bk_sdm", "sensitivity", "sensitivity_intervals", "greedy", "greedy_intervals",
        "unpruned", "alter"),
    "plans": unprinted("All updates under a plan that was learned: is it the plan, or what was spent before it stood?",
        "alter", "plan_of_alter", "static", "plan_of_static"),
    "longer": unprinted("Four times the updates: too little training?",
        "alter", "longer_alter", "static", "longer_static", "two_stage", "longer_two_stage", against="longer_alter"),
    "learning_rates": unprinted("Learning rates: the study's (alter), a third of the backbone's, others",
        "alter", "alter_lr_third", "alter_lr_tenth", "alter_router_lr_third", "alter_router_lr_triple",
        "static", "static_lr_third"),
    "ratio_weight": unprinted("lambda_ratio: 5 (alter and Table 3's rows), others, and 1 for each row of Table 3",
        "lambda_ratio_03", "lambda_ratio_1", "alter", "lambda_ratio_20", "static", "static_lambda_ratio_1",
        "manual", "manual_lambda_ratio_1", "two_stage", "two_stage_lambda_ratio_1", against="lambda_ratio_1"),
    "routing": unprinted("Routing: flicker against ten intervals",
        "alter", "snapped", "embedded_timestep", "embedded_snapped"),
    "choices": unprinted("Choices of the method", "alter", "hard_masks", "logistic_noise", "prunable_ratio",
        "lambda_balance_0", "lambda_balance_10"),
    "recipe": unprinted("What the default departs from the printed recipe in",
        "alter", "inputs_per_expert", "no_ramp", "printed_feature_kd", "embedded_timestep", "hard_masks"),
}  # fmt: skip


def beside_paper(name: str, table: pd.DataFrame, backbone: str) -> pd.DataFrame:
    """One of COMPARISONS as text, a row a variant: the paper's figures, then ours of `backbone`, FID-AlexNet with its
    interval and its difference, paired by seed. Variants without a finished run say so.

    Raises KeyError for a comparison that is not kept.
    """
    comparison, sides = COMPARISONS[name], {}
    if comparison.paper:
        printed = paper_table(comparison.paper).xs(20, level="steps").reindex(comparison.rows.values())
        sides["paper"] = printed.map(lambda value: "" if pd.isna(value) else f"{value:g}").set_axis([*comparison.rows])
    sides[f"ours, {backbone}"] = ours(comparison, table, backbone)
    return pd.concat(sides, axis=1).rename_axis(comparison.title)


def ours(comparison: Comparison, table: pd.DataFrame, backbone: str) -> pd.DataFrame:
    """The columns of ours, a row for each variant of a comparison."""
    rows = of_runs(table)
    rows = rows[rows.backbone == backbone]
    means, changes = summary(rows, ["variant"]), differences(rows, ["variant"], comparison.against)
    ratios = rows.groupby("variant").achieved_ratio.mean()
    return pd.DataFrame(
        [
            (
                text(means, variant, "not run"),
                means.seeds.get(variant, 0),
                text(changes, variant),
                f"{ratios[variant]:.4f}" if variant in ratios else "",
            )
            for variant in comparison.rows
        ],
        index=list(comparison.rows),
        columns=["FID-AlexNet", "seeds", f"less {comparison.against}'s", "active MACs"],
    )


def text(frame: pd.DataFrame, variant: str, otherwise: str = "") -> str:
    """ "5.82 [5.34, 6.35]" of a row of `summary`; without an interval where there is one seed."""
    if variant not in frame.index:
        return otherwise
    mean, low, high, seeds = frame.loc[variant]
    return f"{mean:.3g}" + (f" [{low:.3g}, {high:.3g}]" if seeds > 1 else "")


def comparisons(table: pd.DataFrame, names: Sequence[str], backbones: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Those of `names` for each backbone, to display one after the other."""
    yield from (beside_paper(name, table, backbone) for name in names for backbone in backbones)


def relative_differences(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """`differences` within one of COMPARISONS on each backbone, in units of the unpruned teacher's FID-AlexNet."""
    rows = relative(table)
    return differences(rows[rows.variant.isin(COMPARISONS[name].rows)], against=COMPARISONS[name].against)


def left(study: Study) -> pd.DataFrame:
    """A row a group of the study and backbone: planned and finished runs, and the command for the rest."""
    return pd.DataFrame(study.left())
