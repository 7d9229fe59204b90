"""Figures of the ablation study over seeds: intervals and pairs by hand, the paper's tables beside ours."""

import numpy as np
import pandas as pd
import pytest
import study_tables

from alter_lib.ablation_study import Study
from alter_lib.ablation_study.summary import (
    differences,
    facts,
    finished,
    interval,
    of_runs,
    ranking,
    relative,
    slopes,
    summary,
)
from alter_lib.ablation_study.tables import COMPARISONS, beside_paper, relative_differences

STUDY = Study.load()
table = pytest.fixture(study_tables.table)


def test_an_interval_is_students_by_hand() -> None:
    """Values 1, 2, 3: s = 1, t(0.975, 2) = 4.302653 (any table), half = 4.302653 / sqrt(3)."""
    mean, low, high, n = interval(np.array([1.0, 2.0, 3.0]))
    assert (mean, n) == (2.0, 3) and high - mean == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert low == pytest.approx(4 - high)
    assert np.isnan(interval(np.array([5.0]))[1:3]).all()


def test_differences_are_paired_by_seed(table: pd.DataFrame) -> None:
    rows = of_runs(table)
    found = differences(rows)
    static = found.loc["tiny_sd", "static"]
    assert static["mean"] == pytest.approx((0.5 + 0.2 + 0.9) / 3) and static.seeds == 3
    assert static.high - static.low < (summary(rows).loc["tiny_sd", "static"][["low", "high"]].diff().iloc[1]) / 2
    assert found.loc["tiny_sd", "manual"]["mean"] == 4.0 and ("tiny_sd", "alter") not in found.index


def test_seeds_that_one_of_the_two_lacks_are_left_out(table: pd.DataFrame) -> None:
    without = table[~((table.variant == "alter") & (table.training_seed == 2))]
    assert differences(of_runs(without)).loc["tiny_sd", "static"].seeds == 2


def test_a_trend_is_the_slope_of_each_seed_that_has_every_variant(table: pd.DataFrame) -> None:
    """Static at 0, ALTER at 1: minus the three differences. Manual at 3 has one seed: through (0, 5.5), (1, 5), (3, 9)
    least squares go with 6 / (42 / 9)."""
    found = slopes(of_runs(table), {"static": 0.0, "alter": 1.0}).loc["tiny_sd"]
    by_hand = differences(of_runs(table)).loc["tiny_sd", "static"]
    assert found.tolist() == pytest.approx([-by_hand["mean"], -by_hand.high, -by_hand.low, 3])
    found = slopes(of_runs(table), {"static": 0.0, "alter": 1.0, "manual": 3.0}).loc["tiny_sd"]
    assert (found["mean"], found.seeds) == (pytest.approx(54 / 42), 1)
    assert slopes(of_runs(table), {"static": 0.0, "experts_2": 1.0}).empty


def test_relative_figures_are_in_units_of_the_teacher_s_at_as_many_steps(table: pd.DataFrame) -> None:
    found = relative(table).set_index("run").value
    assert found["tiny_sd-alter-s1"] == pytest.approx(6 / 3.2) and len(found) == sum(
        map(len, study_tables.FIDS.values())
    )


def test_runs_that_were_evaluated_at_other_steps_have_no_relative_figure(table: pd.DataFrame) -> None:
    elsewhere = table.assign(steps=table.steps + 5, run=table.run.astype("str"))
    assert relative(elsewhere).empty and ranking(elsewhere).empty


def test_the_ranking_has_the_best_first_and_what_is_between_it_and_alter(table: pd.DataFrame) -> None:
    found = ranking(table).loc["tiny_sd"]
    assert found.index.tolist() == ["alter", "static", "manual"]
    assert found.loc["static", ["mean", "mean less ALTER's"]].tolist() == pytest.approx([19.6 / 9.6, 1.6 / 9.6])
    assert found.loc["alter", "mean less ALTER's":].isna().all()


def test_facts_add_the_hours_of_all_seeds_and_average_the_rest(table: pd.DataFrame) -> None:
    found = facts(table).loc["tiny_sd", "static"]
    assert found.hours == pytest.approx(3 * 240 / 3600) and found.switches == 30


def test_finished_runs_come_from_the_runs_else_from_the_committed_table_else_from_nowhere(table, tmp_path) -> None:
    study = Study(str(tmp_path / "runs"), str(tmp_path / "results"), STUDY.runs)
    nothing, source = finished(study)
    assert nothing.empty and source.startswith("nowhere") and summary(of_runs(nothing)).empty
    assert facts(nothing).empty and ranking(nothing).empty and slopes(nothing, {"alter": 1.0}).empty
    (tmp_path / "results").mkdir()
    table.to_csv(tmp_path / "results" / "table.csv", index=False)
    read, source = finished(study)
    assert len(read) == len(table) and source.endswith("table.csv")


def test_the_paper_s_figures_stand_beside_ours(table: pd.DataFrame) -> None:
    frame = beside_paper("3", table, "tiny_sd")
    assert list(frame.index) == ["static", "manual", "two_stage", "alter", "inputs_per_expert"]
    assert frame.loc["static", ("paper", "FID (CC3M)")] == "19.03"
    ours = frame["ours, tiny_sd"]
    assert ours.loc["alter", "FID-AlexNet"].startswith("6 [") and ours.loc["manual", "FID-AlexNet"] == "9"
    assert ours.loc["two_stage", "FID-AlexNet"] == "not run" and ours.loc["two_stage", "seeds"] == 0
    assert ours.loc["static", "less alter's"].startswith("0.533 [") and ours.loc["alter", "less alter's"] == ""


def test_longer_runs_are_compared_with_alter_trained_as_long_in_units_of_the_teacher(table: pd.DataFrame) -> None:
    table["variant"] = table.variant.replace({"alter": "longer_alter", "manual": "longer_static"})
    found = relative_differences("longer", table)
    assert found.loc[("tiny_sd", "longer_static"), "mean"] == pytest.approx(4.0 / 3.2)  # the teacher: 3.2 at 20 steps


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_comparison_is_there_before_anything_has_run(name: str, tmp_path) -> None:
    nothing, _ = finished(Study(str(tmp_path), str(tmp_path), STUDY.runs))
    frame = beside_paper(name, nothing, "tiny_sd")
    assert set(frame["ours, tiny_sd"]["FID-AlexNet"]) == {"not run"}
    printed = [variant for variant, paper in COMPARISONS[name].rows.items() if paper]
    assert not printed or (frame.loc[printed, "paper"] != "").all(axis=None)
