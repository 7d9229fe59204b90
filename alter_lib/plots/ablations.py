"""Figures of the ablation study, from the tidy tables of `alter_lib.collect`: a panel a backbone, 95 % intervals over
seeds. Without a finished run an axis says so."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis

from ..ablation_study.summary import ALTER, FID, STEPS, differences, of_runs, summary
from ..ablation_study.tables import COMPARISONS
from .style import BLUE, FAINT, INK, MUTED, PALETTE, RED, panels, styled

LABEL = "FID-AlexNet (lower is better)"
EXPERTS = {"static": 1, "experts_2": 2, "experts_3": 3, "experts_5": 5, "alter": 10, "experts_15": 15, "experts_20": 20}
RATIOS = {"ratio_50": 0.5, "ratio_55": 0.55, "ratio_60": 0.6, "alter": 0.65, "ratio_70": 0.7, "ratio_80": 0.8}
RATIO_WEIGHTS = {"lambda_ratio_03": 0.3, "lambda_ratio_1": 1.0, "alter": 5.0, "lambda_ratio_20": 20.0}
COLORS, MARKERS = [color for color in PALETTE if color != RED], "os^Dv<>"
MAIN = ("static", "manual", "two_stage", "inputs_per_expert", "alter")
METHODS = (*MAIN, *COMPARISONS["baselines"].rows)  # beside the choices and trends within ALTER
COMPARED = [row for comparison in COMPARISONS.values() for row in comparison.rows]
VARIANTS = list(dict.fromkeys([*METHODS, *COMPARED, *EXPERTS, *RATIOS]))
TEMPORAL = ("alter", "two_stage", "manual", "greedy_intervals")  # may spend more at some timesteps
SIDE_BY_SIDE = 0.028  # of their MACs, between points that would lie on each other


def each_backbone(
    table: pd.DataFrame, ax: Sequence[Axes] | None, height: float, draw: Callable[[Axes, pd.DataFrame], None]
) -> np.ndarray:
    """One panel for each backbone of the table, titled by its name; one that says so where the table is empty."""
    names = list(dict.fromkeys(table.backbone)) or ["no finished run: see what is left"]
    ax = panels(ax, 1, len(names), height)
    for each, name in zip(ax, names, strict=False):
        rows = table[table.backbone == name]
        each.set_title(name)
        if rows.empty:
            each.axis("off")
        else:
            draw(each, rows)
            each.grid()
    return ax


def half_widths(found: pd.DataFrame) -> np.ndarray:
    """Of the intervals of `summary` rows, [2, n] as errorbar wants them; not-a-number for one seed: no bar."""
    return np.abs(found[["low", "high"]].to_numpy(float).T - found["mean"].to_numpy(float))


def points(ax: Axes, x: Sequence[float], found: pd.DataFrame, **look: object) -> None:
    """Means of `summary` rows with their intervals."""
    ax.errorbar(x, found["mean"], half_widths(found), **{"marker": "o", "markersize": 4, "capsize": 2, **look})


def legend_below(ax: Axes) -> None:
    """A dozen variants leave no room inside."""
    columns = 4 if len(ax.figure.axes) == 1 else 2
    ax.legend(fontsize=6, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def look(variant: str) -> dict[str, object]:
    """Colour and marker of a variant, the same in each figure; ALTER's are its own, on top of the others."""
    if variant == "alter":
        return {"color": RED, "marker": "*", "markersize": 9, "zorder": 3}
    number = VARIANTS.index(variant)
    return {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}


def log_axis(axis: Axis) -> None:
    """Figures on a logarithmic axis, written out."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("{x:g}")


@styled
def ordering(table: pd.DataFrame, variants: Sequence[str] = MAIN, ax: Sequence[Axes] | None = None) -> np.ndarray:
    """FID-AlexNet of each variant less ALTER's, paired by seed (Table 3): right of zero, ALTER is better. Every seed is
    a faint point."""

    def draw(each: Axes, rows: pd.DataFrame) -> None:
        found = differences(rows, ["variant"])
        for row, variant in enumerate(found.index):
            single = seeds(rows, variant)
            each.plot(single, [row] * len(single), ".", color=BLUE, alpha=0.3)
        each.errorbar(found["mean"], range(len(found)), xerr=half_widths(found), color=BLUE, marker="o", markersize=5,
                      capsize=3, linestyle="none")  # fmt: skip
        each.axvline(0, color=RED, linewidth=1, label="ALTER")
        each.set(yticks=range(len(found)), ylim=(len(found) - 0.5, -0.5), xlabel=f"{LABEL.split(' (')[0]} less ALTER's")
        each.set_yticklabels([f"{variant} ({found.seeds[variant]} seeds)" for variant in found.index])

    rows = of_runs(table)
    return each_backbone(rows[rows.variant.isin([*variants, "alter"])], ax, 0.9 + 0.36 * len(variants), draw)


def seeds(rows: pd.DataFrame, variant: str) -> pd.Series:
    """The differences of one variant to ALTER, seed by seed."""
    values = rows.pivot_table(index="training_seed", columns="variant", values="value")
    return (values[variant] - values["alter"]).dropna()


@styled
def fid_against_macs(table: pd.DataFrame, ax: Sequence[Axes] | None = None) -> np.ndarray:
    """The headline: FID-AlexNet against the MACs of an image, every method on the same axes, ALTER at each of its
    target ratios, and the unpruned teacher with fewer and fewer steps, whose intervals are over prompts.

    Plans at one budget differ by a few per cent in their MACs at these few timesteps: within 5 % of ALTER's they stand
    side by side around their mean, best on the left.
    """
    macs = table[table.name == "total_macs"].set_index(["run", "method", "steps"]).value / 1e9

    def draw(each: Axes, rows: pd.DataFrame) -> None:
        places = macs.reindex(pd.MultiIndex.from_frame(rows[["run", "method", "steps"]]))
        rows = rows.assign(macs=places.to_numpy())
        pruned = rows[rows.method == "alter"]
        teacher = rows[rows.method == "teacher"].drop_duplicates("steps").sort_values("steps")
        _fewer_steps(each, teacher)
        _other_ratios(each, pruned[pruned.variant.isin(RATIOS)])
        _side_by_side(each, pruned[pruned.variant.isin(METHODS)])
        each.set(xlabel="GMACs an image", ylabel=LABEL)
        log_axis(each.xaxis)
        log_axis(each.yaxis)
        values = [*teacher.low, *teacher.high, *pruned.value]  # an interval over two seeds would flatten all else
        each.set_ylim(min(values) / 1.05, max(values) * 1.05)
        legend_below(each)

    of_quality = table[(table.name == FID) & table.method.isin(["alter", "teacher"])]
    return each_backbone(of_quality[of_quality.variant.isin([*METHODS, *RATIOS])], ax, 4.6, draw)


def _fewer_steps(ax: Axes, teacher: pd.DataFrame) -> None:
    errors = np.abs(teacher[["low", "high"]].to_numpy(float).T - teacher.value.to_numpy(float))
    ax.errorbar(teacher.macs, teacher.value, errors, color=INK, marker="s", markersize=4, capsize=2,
                label="unpruned, fewer steps")  # fmt: skip
    for x, steps, value in zip(teacher.macs, teacher.steps, teacher.value, strict=True):
        ax.annotate(f"{steps:g}", (x, value), (3, 4), textcoords="offset points", fontsize=7, color=MUTED)


def _other_ratios(ax: Axes, rows: pd.DataFrame) -> None:
    if rows.variant.nunique() > 1:
        found = summary(rows, ["variant"]).assign(macs=rows.groupby("variant").macs.mean()).sort_values("macs")
        points(ax, found.macs, found, color=RED, alpha=0.5, label="alter, other ratios")


def _side_by_side(ax: Axes, rows: pd.DataFrame) -> None:
    found, x = summary(rows, ["variant"]), rows.groupby("variant", sort=False).macs.mean()
    equal = found["mean"][(x / x.get("alter", np.nan) - 1).abs() < 0.05].sort_values().index
    if len(equal) > 1:
        mean, ranks = x[equal].mean(), np.arange(len(equal)) - (len(equal) - 1) / 2
        x[equal] = mean * (1 + SIDE_BY_SIDE) ** ranks
        label = f"pruned, all at {mean:.2g} GMACs, side by side"
        ax.axvspan(*x[equal].iloc[[0, -1]], color=FAINT, alpha=0.6, label=label)
    for variant in found.index:
        points(ax, [x[variant]], found.loc[[variant]], label=variant, linestyle="none", **look(variant))


@styled
def by_variant(table: pd.DataFrame, ax: Sequence[Axes] | None = None) -> np.ndarray:
    """The methods of `fid_against_macs`, runs under the plans of others, with more updates and with other weights of
    L_ratio, drawn apart: FID-AlexNet at STEPS steps, best on top, every seed a faint point; dashed: the unpruned
    teacher by its steps."""
    teachers = table[(table.name == FID) & (table.method == "teacher")].drop_duplicates(["backbone", "steps"])

    def draw(each: Axes, rows: pd.DataFrame) -> None:
        found = summary(rows, ["variant"]).sort_values("mean")
        for row, variant in enumerate(found.index):
            single = rows[rows.variant == variant].value
            each.plot(single, [row] * len(single), ".", color=BLUE, alpha=0.3)
        each.errorbar(found["mean"], range(len(found)), xerr=half_widths(found), color=BLUE, marker="o", markersize=5,
                      capsize=3, linestyle="none")  # fmt: skip
        own = teachers[teachers.backbone == rows.backbone.iloc[0]].sort_values("value")
        for value in own.value:
            each.axvline(value, color=MUTED, linestyle="--", linewidth=0.8)
        apart = np.diff(np.log(own.value), prepend=-np.inf) > 0.025  # closer ones share a label
        for value, steps in own.groupby(apart.cumsum()).agg({"value": "mean", "steps": list}).itertuples(index=False):
            each.annotate(", ".join(f"{step:g}" for step in steps), (value, -0.9), ha="left", fontsize=7, color=MUTED)
        log_axis(each.xaxis)
        values = [*own.value, *rows.value]
        each.set_xlim(min(values) / 1.05, max(values) * 1.05)
        each.set(yticks=range(len(found)), ylim=(len(found) - 0.5, -1.5), xlabel=LABEL)
        each.set_yticklabels([f"{variant} ({found.seeds[variant]} seeds)" for variant in found.index])

    rows = of_runs(table)
    others = [row for name in ("plans", "longer", "ratio_weight") for row in COMPARISONS[name].rows]
    rows = rows[rows.variant.isin([*METHODS, *others])]
    return each_backbone(rows, ax, 1.2 + 0.26 * rows.variant.nunique(), draw)


@styled
def trend(
    table: pd.DataFrame, places: Mapping[str, float], xlabel: str, xscale: str = "linear",
    ax: Sequence[Axes] | None = None,
) -> np.ndarray:  # fmt: skip
    """FID-AlexNet along one factor: number of experts (Fig. 4c: EXPERTS), target ratio (Table 10: RATIOS), lambda_ratio
    (RATIO_WEIGHTS). Dashed: the unpruned teacher at as many steps. places: {variant: where it stands}; a backbone at
    one of them has no panel. xscale: as matplotlib's."""
    teachers = table[(table.name == FID) & (table.method == "teacher") & (table.steps == STEPS)]

    def draw(each: Axes, rows: pd.DataFrame) -> None:
        found = summary(rows, ["variant"])
        found = found.assign(place=[places[variant] for variant in found.index]).sort_values("place")
        points(each, found.place, found, color=BLUE)
        teacher = teachers[teachers.backbone == rows.backbone.iloc[0]].value
        each.axhline(teacher.mean(), color=MUTED, linestyle="--", label=f"unpruned, {STEPS} steps")
        each.set(xlabel=xlabel, ylabel=LABEL, xscale=xscale)
        each.set_xticks([], minor=True)
        each.set_xticks(found.place, [f"{place:g}" for place in found.place])
        each.legend()

    rows = of_runs(table)
    rows = rows[rows.variant.isin(places)]
    several = rows.groupby("backbone").variant.transform("nunique") > 1
    return each_backbone(rows[several], ax, 2.9, draw)


@styled
def learning_curves(curves: pd.DataFrame, ax: Sequence[Axes] | None = None) -> np.ndarray:
    """FID-AlexNet against updates of the backbone: is a variant slow, or does it end worse? curves: of `curve.json`, at
    an N of their own."""

    def draw(each: Axes, rows: pd.DataFrame) -> None:
        for variant, group in rows.groupby("variant", sort=False):
            found = summary(group, ["updates"]).sort_index()
            points(each, found.index, found, label=variant, **look(variant))
        each.set(xlabel="updates of the backbone", ylabel=LABEL)
        log_axis(each.yaxis)
        each.set_title(f"{rows.backbone.iloc[0]}, N = {rows.n.iloc[0]:g}")
        legend_below(each)

    return each_backbone(of_runs(curves), ax, 4.2, draw)


@styled
def distillation_errors(table: pd.DataFrame, ax: Sequence[Axes] | None = None) -> np.ndarray:
    """L_outKD of each method's plan by timestep, means over seeds: dashed with the teacher's own weights, solid after
    fine-tuning. table: of `alter_lib.ablation_study.distillation`."""

    def draw(each: Axes, rows: pd.DataFrame) -> None:
        for variant, group in rows.groupby("variant", sort=False):
            found = group.groupby("first_timestep")[["last_timestep", "before", "after"]].mean()
            middle, style = (found.index + found.last_timestep) / 2, look(variant)
            each.plot(middle, found.before, linestyle="--", linewidth=0.8, color=style["color"])
            each.plot(middle, found.after, label=variant, **{**style, "markersize": 4})
        each.set(xlabel="timestep", ylabel="$L_{outKD}$ (dashed: before fine-tuning)", yscale="log")
        legend_below(each)

    return each_backbone(table[table.variant.isin(METHODS)], ax, 4.2, draw)


@styled
def capacity(table: pd.DataFrame, variants: Sequence[str] = TEMPORAL, ax: Sequence[Axes] | None = None) -> np.ndarray:
    """When each plan spends its MACs: their share by timestep, means over seeds, ALTER's with intervals; every seed
    faint. Sampling runs from right to left. table: of `alter_lib.ablation_study.distillation`."""

    def draw(each: Axes, rows: pd.DataFrame) -> None:
        for variant, group in rows.groupby("variant", sort=False):
            style, found = look(variant), summary(group, ["middle"]).sort_index()
            for _, run in group.groupby("training_seed"):
                each.plot(run.middle, run.value, color=style["color"], alpha=0.2, linewidth=0.8)
            if variant == ALTER:
                points(each, found.index, found, label=variant, **style)
            else:
                each.plot(found.index, found["mean"], label=variant, **style)
        each.set(xlabel="timestep", ylabel="share of the total MACs", ylim=(0, 1))
        legend_below(each)

    middle = (table.first_timestep + table.last_timestep) / 2
    rows = table.assign(middle=middle, value=table.macs_ratio)
    return each_backbone(rows[rows.variant.isin(variants)], ax, 3.4, draw)


@styled
def kept_layers(layers: pd.DataFrame, table: pd.DataFrame, ax: Sequence[Axes] | None = None) -> np.ndarray:
    """Which layers does a good plan keep? A row a run, best FID-AlexNet on top, a column a prunable layer in execution
    order; dark: it runs at all timesteps. layers: of `alter_lib.collect --layers`, those that may be compared."""
    fid = of_runs(table).set_index("run").value

    def draw(each: Axes, rows: pd.DataFrame) -> None:
        shares = rows.pivot_table(index="run", columns="layer", values="kept", sort=False)
        shares = shares.loc[fid[shares.index].sort_values().index]
        each.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        each.set_yticks(
            range(len(shares)), [f"{run.split('-', 1)[1]}  {fid[run]:.2f}" for run in shares.index], fontsize=5
        )
        each.set_xticks(range(len(shares.columns)), shares.columns, rotation=90, fontsize=5)
        each.set(ylabel=f"run and {LABEL}", ylim=(most - 0.5, -0.5))  # rows as high as the other panel's

    rows = layers[layers.run.isin(fid.index)]
    most = rows.groupby("backbone").run.nunique().max() if len(rows) else 0
    ax = each_backbone(rows, ax, 2.2 + 0.11 * most, draw)
    for each in ax:
        each.grid(False)
    return ax
