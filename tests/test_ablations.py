"""The ablation study: its list of runs, intervals and pairs by hand, the paper's tables beside ours, its figures."""

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.colors import to_hex

from alter_lib import plots
from alter_lib.ablation_study import Study
from alter_lib.ablation_study.summary import (
    differences,
    distillation,
    facts,
    finished,
    interval,
    kept_by_stage,
    layers,
    noise_or_detail,
    of_runs,
    summary,
)
from alter_lib.ablation_study.tables import COMPARISONS, beside_paper
from alter_lib.params import ROOT, ParamsError, load_params, parse_overrides
from alter_lib.plots.ablations import look
from alter_lib.plots.style import RED

STUDY = Study.load()
FIDS = {"alter": [5.0, 6.0, 7.0], "static": [5.5, 6.2, 7.9], "manual": [9.0]}  # by seed


def row(variant: str, seed: int, name: str, value: float, method: str = "alter", steps: int = 20, **more) -> dict:
    fixed = {"run": f"tiny_sd-{variant}-s{seed}", "backbone": "tiny_sd", "variant": variant, "training_seed": seed,
             "low": value - 0.5, "high": value + 0.5, "n": 1000, "num_experts": 10, "experts_used": 9, "switches": 30,
             "achieved_ratio": 0.65, "training_seconds": 180.0, "evaluation_seconds": 60.0}  # fmt: skip
    return {**fixed, "name": name, "value": value, "method": method, "steps": steps, **more}


@pytest.fixture
def table() -> pd.DataFrame:
    rows = []
    for variant, values in FIDS.items():
        for seed, value in enumerate(values):
            pruned = [row(variant, seed, "fid_alexnet", value), row(variant, seed, "total_macs", 1.3e9)]
            of_teacher = [("fid_alexnet", 3.2, 20), ("fid_alexnet", 3.3, 13)]
            of_teacher += [("total_macs", 2e9, 20), ("total_macs", 1.3e9, 13)]
            rows += pruned + [row(variant, seed, name, each, "teacher", steps) for name, each, steps in of_teacher]
    return pd.DataFrame(rows)


# --- the list of runs ---------------------------------------------------------------------------------------------


def test_each_run_has_a_name_and_a_folder_of_its_own_and_the_teacher_s_figures_of_its_backbone() -> None:
    assert len({run.name for run in STUDY.runs}) == len(STUDY.runs)
    for run in STUDY.runs:
        assert run.changes["run.name"] == run.name and run.changes["run.seed"] == run.seed
        assert run.teacher == f"results/teacher/{run.name.split('-')[0]}.json"
        assert run.has_curve == ("training.snapshots" in run.changes)


def test_the_main_ordering_has_five_seeds_on_both_backbones_and_the_trends_three() -> None:
    counts: dict[tuple, int] = {}
    for run in STUDY.runs:
        counts[run.params, run.variant] = counts.get((run.params, run.variant), 0) + 1
    for params in ("params/tiny_sd.yaml", "params/tiny_dit.yaml"):
        assert all(counts[params, variant] >= 5 for variant in ("alter", "static", "manual", "two_stage"))
    assert min(counts.values()) >= 3
    assert {run.group for run in STUDY.runs if run.params == "params/tiny_dit.yaml"} == {
        "table_3", "baselines", "plans", "longer", "learning_rates", "recipe"}  # fmt: skip


def test_a_variant_has_no_key_that_nobody_reads() -> None:
    """YAML reads `on` as true, and a typo as nothing."""
    content = yaml.safe_load((ROOT / "workflow" / "study.yaml").read_text())
    for spec in content["variants"].values():
        assert {"group", "seeds", "set"} <= set(spec) <= {"group", "seeds", "set", "only", "curve", "plan_of"}


def test_a_run_under_a_learned_plan_names_the_run_of_its_seed_that_learned_it() -> None:
    runs = {run.name: run for run in STUDY.runs}
    under = [run for run in STUDY.runs if run.plan_of]
    assert {run.variant for run in under} == {"plan_of_static", "plan_of_alter", "plan_of_inputs_per_expert"}
    for run in under:
        source = runs[run.plan_of]
        assert (source.params, source.seed, f"plan_of_{source.variant}") == (run.params, run.seed, run.variant)
        assert run.changes["training.plan"] == f"{STUDY.out}/{source.name}/alter"
        assert run.changes["training.hypernetwork_steps"] == 0


def test_the_options_of_a_run_are_what_a_shell_and_the_params_read() -> None:
    import shlex

    run = next(run for run in STUDY.runs if run.variant == "two_stage")
    words = shlex.split(run.options)
    assert words[:3] == ["--params", run.params, "--set"]
    params = load_params(run.params, parse_overrides(words[3:]))
    assert params.training.order == "two_stage" and params.run.name == run.name
    assert list(params.training.snapshots) == run.changes["training.snapshots"] and params.training.trackers == ()


def test_what_the_issue_asks_for_is_a_variant() -> None:
    variants = {run.variant for run in STUDY.runs}
    assert {variant for comparison in COMPARISONS.values() for variant in comparison.rows} <= variants
    assert {*plots.EXPERTS, *plots.RATIOS} <= variants


@pytest.mark.parametrize("variant", plots.EXPERTS)
def test_the_places_on_the_axis_of_experts_are_the_params(variant: str) -> None:
    run = next(run for run in STUDY.runs if run.variant == variant)
    assert load_params(run.params, run.changes).hypernetwork.num_experts == plots.EXPERTS[variant]


@pytest.mark.parametrize("variant", plots.RATIOS)
def test_the_places_on_the_axis_of_ratios_are_the_params(variant: str) -> None:
    run = next(run for run in STUDY.runs if run.variant == variant)
    assert load_params(run.params, run.changes).loss.target_ratio == plots.RATIOS[variant]


def test_the_prunable_ratio_is_the_total_one_at_equal_macs() -> None:
    import json

    cost = json.loads((ROOT / "results" / "tiny_sd" / "plan.json").read_text())["cost"]
    run = next(run for run in STUDY.runs if run.variant == "prunable_ratio")
    share = run.changes["loss.target_ratio"] * (cost["total"] - cost["fixed"]) + cost["fixed"]
    assert share / cost["total"] == pytest.approx(0.65, abs=1e-4)


def test_what_is_left_comes_with_its_command(tmp_path) -> None:
    study = Study(str(tmp_path), "results/x", STUDY.runs)
    first = STUDY.runs[0]
    assert first.has_curve
    (tmp_path / first.name).mkdir()
    (tmp_path / first.name / "metrics.json").write_text("{}")
    assert study.left()[0]["finished"] == 0  # its curve is missing
    (tmp_path / first.name / "curve.json").write_text("{}")
    found = study.left()[0]
    assert found["finished"] == 1 and found["command for the rest"].endswith(f"--cores 2 {first.group}")
    assert sum(each["runs"] for each in study.left()) == len(STUDY.runs)


def test_a_committed_run_is_finished_and_is_not_run_again(tmp_path) -> None:
    """With a learning curve it has to be in both tables."""
    study = Study(str(tmp_path / "runs"), str(tmp_path), STUDY.runs)
    one, two = [run for run in STUDY.runs if run.has_curve][:2]
    (tmp_path / "table.csv").write_text(f"run,value\n{one.name},1\n{one.name},2\n{two.name},1\n")
    (tmp_path / "curves.csv").write_text(f"run,value\n{one.name},1\n")
    assert study.committed == {one.name} and study.left()[0]["finished"] == 1
    assert not set(study.results_of(one)) & set(study.to_run()) and set(study.results_of(two)) <= set(study.to_run())
    assert len(study.to_run(one.group)) < len(study.to_run())


def test_a_study_that_is_not_there_is_one_line(tmp_path) -> None:
    with pytest.raises(ParamsError, match="none.yaml: no such file"):
        Study.load(tmp_path / "none.yaml")


# --- means, intervals, pairs --------------------------------------------------------------------------------------


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


def test_facts_add_the_hours_of_all_seeds_and_average_the_rest(table: pd.DataFrame) -> None:
    found = facts(table).loc["tiny_sd", "static"]
    assert found.hours == pytest.approx(3 * 240 / 3600) and found.switches == 30


def test_finished_runs_come_from_the_runs_else_from_the_committed_table_else_from_nowhere(table, tmp_path) -> None:
    study = Study(str(tmp_path / "runs"), str(tmp_path / "results"), STUDY.runs)
    nothing, source = finished(study)
    assert nothing.empty and source.startswith("nowhere") and summary(of_runs(nothing)).empty
    assert facts(nothing).empty
    (tmp_path / "results").mkdir()
    table.to_csv(tmp_path / "results" / "table.csv", index=False)
    read, source = finished(study)
    assert len(read) == len(table) and source.endswith("table.csv")


# --- tables and figures -------------------------------------------------------------------------------------------


def test_the_paper_s_figures_stand_beside_ours(table: pd.DataFrame) -> None:
    frame = beside_paper("3", table, "tiny_sd")
    assert list(frame.index) == ["static", "manual", "two_stage", "alter", "inputs_per_expert"]
    assert frame.loc["static", ("paper", "FID (CC3M)")] == "19.03"
    ours = frame["ours, tiny_sd"]
    assert ours.loc["alter", "FID-AlexNet"].startswith("6 [") and ours.loc["manual", "FID-AlexNet"] == "9"
    assert ours.loc["two_stage", "FID-AlexNet"] == "not run" and ours.loc["two_stage", "seeds"] == 0
    assert ours.loc["static", "less alter's"].startswith("0.533 [") and ours.loc["alter", "less alter's"] == ""


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_comparison_is_there_before_anything_has_run(name: str, tmp_path) -> None:
    nothing, _ = finished(Study(str(tmp_path), str(tmp_path), STUDY.runs))
    frame = beside_paper(name, nothing, "tiny_sd")
    assert set(frame["ours, tiny_sd"]["FID-AlexNet"]) == {"not run"}
    printed = [variant for variant, paper in COMPARISONS[name].rows.items() if paper]
    assert not printed or (frame.loc[printed, "paper"] != "").all(axis=None)


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


def errors_of(run: str, before: list[float], after: list[float]) -> pd.DataFrame:
    backbone, variant, seed = run.split("-")
    facts = {"run": run, "backbone": backbone, "variant": variant, "training_seed": int(seed[1:])}
    times = {"first_timestep": [0, 500], "last_timestep": [499, 999], "macs_ratio": 0.65}
    return pd.DataFrame({**times, "before": before, "after": after}).assign(**facts)


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


def layers_of(run: str, kept: list[float]) -> pd.DataFrame:
    backbone, variant, _ = run.split("-")
    names = ["up_blocks.2.resnets.1", "up_blocks.2.attentions.1", "mid_block.attentions.0"]
    facts = {"run": run, "backbone": backbone, "variant": variant}
    return pd.DataFrame({"layer": names, "macs": [0.1, 0.3, 0.2], "kept": kept}).assign(**facts)


def test_the_layers_of_the_best_run_stand_on_top_and_stages_are_weighed_by_macs(table: pd.DataFrame) -> None:
    runs = {
        "tiny_sd-manual-s0": [1.0, 0.0, 1.0],
        "tiny_sd-alter-s1": [0.0, 0.5, 1.0],
        "tiny_sd-alter-s0": [1.0, 1.0, 0.0],
    }
    kept = pd.concat([layers_of(run, shares) for run, shares in runs.items()])
    other = [layers_of("tiny_sd-plan_of_alter-s0", [1, 1, 1]), layers_of("tiny_sd-ratio_50-s0", [0, 0, 1])]
    more = pd.DataFrame([row(each.variant[0], 0, "fid_alexnet", 4.0) for each in other])
    (ax,) = plots.kept_layers(pd.concat([kept, *other]), pd.concat([table, more]))
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "alter-s0  5.00",
        "alter-s1  6.00",
        "manual-s0  9.00",
    ]
    np.testing.assert_array_equal(ax.images[0].get_array(), [[1, 1, 0], [0, 0.5, 1], [1, 0, 1]])
    found = kept_by_stage(kept)  # (0.1 + 0.3 + 0 + 0.15) / 0.8
    assert found.loc["alter"].tolist() == pytest.approx([0.6875, 0.5]) and list(found) == ["up.2", "mid"]
    assert kept_by_stage(kept, "run").loc["tiny_sd-manual-s0"].tolist() == pytest.approx([0.25, 1.0])


def test_without_a_table_of_layers_the_figure_says_so(table: pd.DataFrame, tmp_path) -> None:
    nothing = layers(Study(str(tmp_path), str(tmp_path), STUDY.runs))
    assert kept_by_stage(nothing).empty
    assert "no finished run" in plots.kept_layers(nothing, table)[0].get_title(loc="left")
    layers_of("tiny_sd-alter-s0", [1, 1, 0]).to_csv(tmp_path / "layers.csv", index=False)
    assert len(layers(Study(str(tmp_path), str(tmp_path), STUDY.runs))) == 3


def test_figures_say_so_where_nothing_is_finished(table: pd.DataFrame) -> None:
    empty = table.iloc[:0].assign(updates=pd.Series(dtype=float))
    for ax in drawn(empty, empty).values():
        assert "no finished run" in ax[0].get_title(loc="left") + ax[0].get_title()
