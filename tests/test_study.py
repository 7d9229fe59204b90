"""The list of runs of the ablation study, and what of it is finished."""

import os
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from alter_lib import plots
from alter_lib.ablation_study import Study
from alter_lib.ablation_study.tables import COMPARISONS
from alter_lib.params import ROOT, ParamsError, load_params, parse_overrides

STUDY = Study.load()


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
        "table_3", "baselines", "plans", "longer", "ratio_weight", "recipe"}  # fmt: skip


def test_a_variant_has_no_key_that_nobody_reads() -> None:
    """YAML reads `on` as true, and a typo as nothing."""
    content = yaml.safe_load((ROOT / "workflow" / "study.yaml").read_text())
    for spec in content["variants"].values():
        assert {"group", "seeds", "set"} <= set(spec) <= {"group", "seeds", "set", "only", "curve", "plan_of"}


def test_a_run_under_a_learned_plan_names_the_run_of_its_seed_that_learned_it() -> None:
    runs = {run.name: run for run in STUDY.runs}
    under = [run for run in STUDY.runs if run.plan_of]
    assert {run.variant for run in under} == {"plan_of_static", "plan_of_alter"}
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
    assert {*plots.EXPERTS, *plots.RATIOS, *plots.RATIO_WEIGHTS} <= variants


@pytest.mark.parametrize("variant", plots.EXPERTS)
def test_the_places_on_the_axis_of_experts_are_the_params(variant: str) -> None:
    run = next(run for run in STUDY.runs if run.variant == variant)
    assert load_params(run.params, run.changes).hypernetwork.num_experts == plots.EXPERTS[variant]


@pytest.mark.parametrize("variant", plots.RATIOS)
def test_the_places_on_the_axis_of_ratios_are_the_params(variant: str) -> None:
    run = next(run for run in STUDY.runs if run.variant == variant)
    assert load_params(run.params, run.changes).loss.target_ratio == plots.RATIOS[variant]


@pytest.mark.parametrize("variant", plots.RATIO_WEIGHTS)
def test_the_places_on_the_axis_of_ratio_weights_are_the_params(variant: str) -> None:
    run = next(run for run in STUDY.runs if run.variant == variant)
    assert load_params(run.params, run.changes).loss.ratio == plots.RATIO_WEIGHTS[variant]


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


def test_the_study_at_full_size_has_the_variants_of_the_embedded_one_at_the_paper_s_schedule() -> None:
    """Its commands are the same: ALTER_STUDY names it to the workflow, the command and notebook 06."""
    code = "from alter_lib.ablation_study import Study; print(len(Study.load().runs))"
    environment = os.environ | {"ALTER_STUDY": "workflow/study_sd21.yaml"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    full = Study.load(ROOT / "workflow" / "study_sd21.yaml")
    assert int(done.stdout) == len(full.runs) != len(STUDY.runs)
    assert {run.variant for run in full.runs} >= {*plots.EXPERTS, *plots.RATIOS, "manual", "two_stage", "stop_at_t_end"}
    embedded = [run for run in STUDY.runs if run.params == "params/tiny_sd.yaml"]
    here = {run.variant: load_params(run.params, run.changes) for run in embedded}
    for run in full.runs:
        params = load_params(run.params, run.changes)
        assert params.training.steps == (9375 if run.variant == "stop_at_t_end" else 32000)
        assert params.hypernetwork.num_experts == here[run.variant].hypernetwork.num_experts
        assert params.loss.target_ratio == here[run.variant].loss.target_ratio


def test_a_study_that_is_not_there_is_one_line(tmp_path) -> None:
    with pytest.raises(ParamsError, match="none.yaml: no such file"):
        Study.load(tmp_path / "none.yaml")


def test_the_committed_runs_are_those_that_the_study_describes() -> None:
    """Rows stay when study.yaml changes: what they say of their run has to be what it says."""
    table = pd.read_csv(ROOT / STUDY.results / "table.csv", low_memory=False).drop_duplicates("run").set_index("run")
    assert len(STUDY.committed) > 100
    for run in STUDY.runs:
        if run.name in table.index:
            params, row = load_params(run.params, run.changes), table.loc[run.name]
            assert row.updates == params.training.steps and row.training_seed == params.run.seed
            assert row.training_batch_size == params.training.batch_size
            assert row.target_ratio == params.loss.target_ratio or params.training.plan == "unpruned"
            assert row.num_experts == params.hypernetwork.num_experts or params.training.plan
