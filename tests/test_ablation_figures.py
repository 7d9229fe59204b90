"""The figures of the ablation study, and the tables of plans and errors that they show."""

import numpy as np
import pandas as pd
import pytest
import study_tables
from matplotlib.colors import to_hex
from study_tables import FIDS, errors_of, layers_of

from alter_lib import plots
from alter_lib.ablation_study import Study
from alter_lib.ablation_study.ranks import changing, comparable, kept_by_stage, plan_measures, rank_correlations
from alter_lib.ablation_study.summary import distillation, layers, noise_or_detail, of_runs
from alter_lib.plots.ablations import look
from alter_lib.plots.style import RED

STUDY = Study.load()
table = pytest.fixture(study_tables.table)


def curves_of(table: pd.DataFrame) -> pd.DataFrame:
    rows = of_runs(table)
    return pd.concat([rows.assign(updates=updates, value=rows.value + 100 / updates, n=256) for updates in (10, 20)])


def drawn(table: pd.DataFrame, curves: pd.DataFrame) -> dict[str, np.ndarray]:
    return {
        "ordering": plots.ordering(table),
        "macs": plots.fid_against_macs(table),
        "variants": plots.by_variant(table),
        "experts": plots.trend(table, plots.EXPERTS, "number of experts"),
        "curves": plots.learning_curves(curves),
    }


def test_figures_show_the_means_where_they_belong(table: pd.DataFrame) -> None:
    found = drawn(table, curves_of(table))
    (ax,) = found["ordering"]
    means = ax.containers[0].lines[0]
    np.testing.assert_allclose(means.get_xydata(), [[1.6 / 3, 0], [4.0, 1]])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["static (3 seeds)", "manual (1 seeds)"]
    (ax,) = found["macs"]
    alter = next(each for each in ax.containers if each.get_label() == "alter").lines[0]
    np.testing.assert_allclose(alter.get_xydata(), [[1.3 / 1.028, 6.0]])  # the best of three with as many MACs
    assert any("all at 1.3 GMACs" in patch.get_label() for patch in ax.patches)
    assert to_hex(alter.get_color()) == RED.lower()
    teacher = next(each for each in ax.containers if "unpruned" in each.get_label()).lines[0]
    np.testing.assert_allclose(teacher.get_xydata(), [[1.3, 3.3], [2.0, 3.2]])
    (ax,) = found["variants"]
    names = [label.get_text().split()[0] for label in ax.get_yticklabels()]
    assert names == ["alter", "static", "manual"]  # best first
    means = ax.containers[0].lines[0].get_xydata()
    np.testing.assert_allclose(means, [[6.0, 0], [np.mean(FIDS["static"]), 1], [9.0, 2]])
    assert [text.get_text() for text in ax.texts] == ["20", "13"] and ax.texts[0].xy[0] == 3.2
    (ax,) = found["experts"]
    np.testing.assert_allclose(ax.containers[0].lines[0].get_xydata(), [[1, np.mean(FIDS["static"])], [10, 6.0]])
    (ax,) = found["curves"]
    alter = next(each for each in ax.containers if each.get_label() == "alter").lines[0]
    np.testing.assert_allclose(alter.get_xydata(), [[10, 16.0], [20, 11.0]])


def test_distillation_errors_are_means_over_seeds_in_the_middle_of_their_interval() -> None:
    frames = [errors_of(f"tiny_sd-static-s{seed}", [1.0 + seed, 0.5], [0.1, 0.1 + seed]) for seed in (0, 1)]
    (ax,) = plots.distillation_errors(pd.concat(frames))
    before, after = ax.get_lines()
    np.testing.assert_allclose(before.get_xydata(), [[249.5, 1.5], [749.5, 0.5]])
    np.testing.assert_allclose(after.get_xydata(), [[249.5, 0.1], [749.5, 0.6]])
    assert before.get_linestyle() == "--" and after.get_label() == "static"


def test_every_variant_of_the_study_can_be_drawn_and_the_figure_of_errors_has_the_methods() -> None:
    frames = [errors_of(f"tiny_sd-{variant}-s0", [1.0, 0.5], [0.1, 0.2]) for variant in {r.variant for r in STUDY.runs}]
    (ax,) = plots.distillation_errors(pd.concat(frames))
    drawn_ones = {line.get_label() for line in ax.get_lines()[1::2]}
    assert {"alter", "greedy"} <= drawn_ones and not {"experts_2", "ratio_50", "hard_masks"} & drawn_ones
    assert all(look(run.variant)["color"] for run in STUDY.runs)


def test_capacity_is_told_by_timestep_and_by_half() -> None:
    frames = [errors_of(f"tiny_sd-alter-s{seed}", [1.0, 0.5], [0.1, 0.1]) for seed in (0, 1)]
    frames = [frame.assign(macs_ratio=[0.6 - 0.1 * seed, 0.7]) for seed, frame in enumerate(frames)]
    found = noise_or_detail(pd.concat(frames)).loc[("tiny_sd", "alter")]
    half = 12.7062 * 0.05  # t of one degree of freedom, standard error of 0.1 and 0.2
    np.testing.assert_allclose(found.to_numpy(float), [0.15, 0.15 - half, 0.15 + half, 2], rtol=1e-5)
    (ax,) = plots.capacity(pd.concat(frames))
    np.testing.assert_allclose(ax.containers[0].lines[0].get_xydata(), [[249.5, 0.55], [749.5, 0.7]])


def test_the_table_of_distillation_errors_is_the_committed_one_or_empty(tmp_path) -> None:
    study = Study(str(tmp_path), str(tmp_path), STUDY.runs)
    nothing = distillation(study)
    assert nothing.empty and {"before", "after", "backbone"} <= set(nothing)
    errors_of("tiny_sd-static-s0", [1.0, 0.5], [0.1, 0.2]).to_csv(tmp_path / "distillation.csv", index=False)
    assert distillation(study).after.tolist() == [0.1, 0.2]
    assert noise_or_detail(nothing).empty and "no finished run" in plots.capacity(nothing)[0].get_title(loc="left")
    assert "no finished run" in plots.distillation_errors(nothing)[0].get_title(loc="left")


KEPT = {
    "tiny_sd-manual-s0": [1.0, 0.0, 1.0],
    "tiny_sd-alter-s1": [0.0, 0.5, 1.0],
    "tiny_sd-alter-s0": [1.0, 1.0, 0.0],
}


def test_the_layers_of_the_best_run_stand_on_top_and_stages_are_weighed_by_macs(table: pd.DataFrame) -> None:
    kept = pd.concat([layers_of(run, shares) for run, shares in KEPT.items()])
    (ax,) = plots.kept_layers(pd.concat([kept, layers_of("tiny_sd-static-s9", [1, 1, 1])]), table)  # s9: no FID
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["alter-s0  5.00", "alter-s1  6.00", "manual-s0  9.00"]
    np.testing.assert_array_equal(ax.images[0].get_array(), [[1, 1, 0], [0, 0.5, 1], [1, 0, 1]])
    found = kept_by_stage(kept)  # (0.1 + 0.3 + 0 + 0.15) / 0.8
    assert found.loc["alter"].tolist() == pytest.approx([0.6875, 0.5]) and list(found) == ["up.2", "mid"]
    assert kept_by_stage(kept, "run").loc["tiny_sd-manual-s0"].tolist() == pytest.approx([0.25, 1.0])


def test_changing_masks_are_the_share_of_the_skipped_macs_in_layers_that_also_run() -> None:
    found = changing(pd.concat([layers_of(run, shares) for run, shares in KEPT.items()]))
    assert found.run.tolist() == [*KEPT]
    assert found.value.tolist() == pytest.approx([0, 0.15 / 0.25, 0])  # 0.1 is always skipped, 0.3 half of the time


def test_ranks_are_spearmans_by_hand(table: pd.DataFrame) -> None:
    """FID 5, 6, 9: up.2 keeps 1, 0.375, 0.25, so -1. mid keeps 0, 1, 1: ranks 1, 2.5, 2.5 against 1, 2, 3 correlate
    by 1.5 / sqrt(1.5 * 2). Errors of two runs, 1.5 and 1: the worse run has the smaller one."""
    kept = pd.concat([layers_of(run, shares) for run, shares in KEPT.items()])
    errors = [errors_of("tiny_sd-alter-s0", [1, 2], [1, 1]), errors_of("tiny_sd-manual-s0", [1, 1], [2, 2])]
    measures = plan_measures(pd.concat(errors), kept, ["up.2", "mid"])
    assert measures.loc["tiny_sd-alter-s1"].isna().tolist() == [True, True, False, False, False, False]
    found = rank_correlations(table, measures)
    expected = [-1, 1, -1, 1.5 / 3**0.5, -1, 0]  # both stages: 0.4 / 0.6, 0.35 / 0.6, 0.3 / 0.6; changing: 0, 0.6, 0
    np.testing.assert_allclose(found["Spearman with FID"], expected)
    assert found.runs.tolist() == [2, 2, 3, 3, 3, 3] and [*found.index[-2:]] == ["up.2 and mid", "changing masks"]


def test_runs_of_another_budget_or_under_the_plan_of_another_run_are_not_comparable() -> None:
    names = comparable(STUDY)
    assert {"tiny_sd-alter-s0", "tiny_dit-greedy-s1", "tiny_sd-experts_5-s2"} <= set(names)
    apart = ("ratio_", "unpruned", "plan_of_", "longer_", "stop_at_t_end")
    assert not [name for name in names if name.split("-")[1].startswith(apart)]
    for run in STUDY.runs:
        if run.name in names:
            assert not {"training.steps", "loss.target_ratio"} & set(run.changes) or run.variant == "prunable_ratio"


def test_without_a_table_of_layers_the_figure_says_so(table: pd.DataFrame, tmp_path) -> None:
    nothing = layers(Study(str(tmp_path), str(tmp_path), STUDY.runs))
    assert kept_by_stage(nothing).empty and changing(nothing).empty
    assert "no finished run" in plots.kept_layers(nothing, table)[0].get_title(loc="left")
    layers_of("tiny_sd-alter-s0", [1, 1, 0]).to_csv(tmp_path / "layers.csv", index=False)
    assert len(layers(Study(str(tmp_path), str(tmp_path), STUDY.runs))) == 3


def test_a_backbone_at_one_place_has_no_trend(table: pd.DataFrame) -> None:
    alone = table[table.variant == "alter"].assign(backbone="tiny_dit")
    found = plots.trend(pd.concat([alone, table]), plots.EXPERTS, "number of experts")
    assert [each.get_title(loc="left") + each.get_title() for each in found] == ["tiny_sd"]


def test_the_weights_of_the_ratio_are_a_factor_apart_and_written_out(table: pd.DataFrame) -> None:
    table["variant"] = table.variant.replace({"static": "lambda_ratio_03", "manual": "lambda_ratio_20"})
    (ax,) = plots.trend(table, plots.RATIO_WEIGHTS, "weight", "log")
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.3", "5", "20"]


def test_figures_say_so_where_nothing_is_finished(table: pd.DataFrame) -> None:
    empty = table.iloc[:0].assign(updates=pd.Series(dtype=float))
    for ax in drawn(empty, empty).values():
        assert "no finished run" in ax[0].get_title(loc="left") + ax[0].get_title()
