"""Many runs in one table; the workflow that makes them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import ExpertPlan, load_backbone, load_params
from alter_lib.ablation_study import Study
from alter_lib.collect import collect, kept_layers, merged, write_table
from alter_lib.params import ROOT


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two finished runs and one that has no figures yet."""
    folder = tmp_path_factory.mktemp("runs")
    tiny_pipeline().save_pretrained(folder.parent / "pipeline")
    backbone = load_backbone(str(folder.parent / "pipeline"), device="cpu")
    masks = torch.ones(2, len(backbone.layers), dtype=torch.bool)
    plan = ExpertPlan.for_backbone(backbone, masks, torch.arange(1000) // 500 % 2)
    for seed, value in ((0, 7.5), (1, 8.5)):
        name = f"tiny_sd-no_kd-s{seed}"
        run = folder / name
        plan.save(run / "alter")
        params = load_params("params/tiny_sd.yaml", {"run.name": name, "run.seed": seed})
        (run / "params.yaml").write_text(yaml.safe_dump(params.dump()))
        (run / "provenance.json").write_text(json.dumps({"wall_seconds": {"training": 3.0, "evaluation": 60}}))
        figures = [
            {"name": "fid_alexnet", "method": "alter", "steps": 20, "value": value, "interval": [value - 1, value + 1]},
            {"name": "total_macs", "method": "alter", "steps": 20, "value": 10},
        ]
        (run / "metrics.json").write_text(json.dumps({"metrics": figures, "notes": []}))
        (run / "history.csv").write_text(f"step,images_per_second\n1,{32 / (4.0 + seed)}\n2,{32 / 6.0}\n")  # batch 32
        points = [{**figures[0], "n": 256, "updates": updates} for updates in (150, 600)]
        (run / "curve.json").write_text(json.dumps({"metrics": points}))
    shutil.copytree(folder / "tiny_sd-no_kd-s0", folder / "unfinished")
    (folder / "unfinished" / "metrics.json").unlink()
    return folder


def test_the_curves_and_the_layers_are_tables_of_their_own(runs, tmp_path):
    command = [sys.executable, "-m", "alter_lib.collect", str(runs), "--out", str(tmp_path / "table.csv")]
    done = subprocess.run(
        [*command, "--curves", str(tmp_path / "curves.csv"), "--layers", str(tmp_path / "layers.csv")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    curves, table = pd.read_csv(tmp_path / "curves.csv"), pd.read_csv(tmp_path / "table.csv")
    assert set(pd.read_csv(tmp_path / "layers.csv").run) == set(table.run)  # not of the run that has no figures
    one = curves[curves.training_seed == 1]
    assert one.updates.tolist() == [150, 600] and one.value.tolist() == [8.5, 8.5]
    assert set(table.updates) == {600} and set(curves.n) == {256}  # of the table: those of the whole training


def test_a_row_a_layer_tells_at_how_many_timesteps_it_runs(runs):
    found = kept_layers(runs / f"tiny_sd-no_kd-s{seed}" for seed in (0, 1))
    one, plan = found[found.run == "tiny_sd-no_kd-s0"], ExpertPlan.load(runs / "tiny_sd-no_kd-s0" / "alter")
    assert one.layer.tolist() == list(plan.layer_names) and (one.kept == 1).all()  # its ratio is 1
    assert found.run.nunique() == 2 and one.macs.sum() == pytest.approx(1 - plan.cost.fixed / plan.cost.total)


def test_a_row_a_figure_with_the_facts_of_its_run(runs):
    table, left_out = collect(runs)
    fid = table[table.name == "fid_alexnet"].set_index("training_seed")
    assert fid.value.to_dict() == {0: 7.5, 1: 8.5} and fid.low.to_dict() == {0: 6.5, 1: 7.5}
    assert set(table.variant) == {"no_kd"} and set(table.backbone) == {"tiny_sd"}
    assert set(table.switches) == {1} and set(table.experts_used) == {2} and set(table.achieved_ratio) == {1.0}
    assert fid.training_seconds.to_dict() == {0: 10.0, 1: 11.0}  # 4 + seed, and 6 seconds
    assert table[table.name == "total_macs"].low.isna().all()
    assert len(left_out) == 1 and "unfinished" in left_out[0]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_written_table_reads_back(runs, tmp_path, suffix):
    table, _ = collect(runs)
    write_table(table, tmp_path / f"table.{suffix}")
    read = getattr(pd, f"read_{suffix}")(tmp_path / f"table.{suffix}")
    assert read.value.tolist() == table.value.tolist() and read.run.tolist() == table.run.tolist()


def test_a_folder_without_figures_is_one_line_and_writes_nothing(tmp_path):
    command = [sys.executable, "-m", "alter_lib.collect", str(tmp_path), "--out", str(tmp_path / "table.csv")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "no evaluated run" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "table.csv").exists()


def test_runs_without_a_learning_curve_are_collected_all_the_same(runs, tmp_path):
    runs = shutil.copytree(runs, tmp_path / "runs", ignore=shutil.ignore_patterns("curve.json"))
    table, curves, layers = (tmp_path / f"{name}.csv" for name in ("table", "curves", "layers"))
    command = [sys.executable, "-m", "alter_lib.collect", str(runs), "--out", str(table), "--curves", str(curves)]
    done = subprocess.run([*command, "--layers", str(layers)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and f"no learning curve in {runs}" in done.stdout, done.stderr
    assert table.exists() and layers.exists() and not curves.exists()


STUDY = Study.load()
FIRST = {(run.params, run.variant): run for run in STUDY.runs if run.seed == 0}


@pytest.mark.parametrize("run", FIRST.values(), ids=[run.name for run in FIRST.values()])
def test_a_variant_of_the_study_changes_what_it_names_and_nothing_else(run):
    content = yaml.safe_load((ROOT / "workflow" / "study.yaml").read_text())
    changes = content["variants"][run.variant]["set"] | ({"training.plan": ...} if run.plan_of else {})
    after = load_params(run.params, run.changes).dump()
    before = load_params(run.params, {key: value for key, value in run.changes.items() if key not in changes}).dump()
    differing = {f"{section}.{key}" for section in before for key in before[section]
                 if before[section][key] != after[section][key]}  # fmt: skip
    assert differing == set(changes)


def test_the_workflow_plans_a_training_and_an_evaluation_a_run_and_a_curve_where_asked_for(tmp_path):
    """A dry run by the engine itself, on a study of two variants."""
    static = {"group": "one", "seeds": 2, "curve": True, "set": {"hypernetwork.num_experts": 1}}
    plan = {"group": "other", "seeds": 1, "set": {"training.plan": "random", "training.hypernetwork_steps": 0}}
    study = {
        "out": str(tmp_path / "runs"),
        "results": str(tmp_path / "results"),
        "backbones": {"params/tiny_sd.yaml": {"snapshots": [300, 600]}},
        "set": {"evaluation.steps": [20]},
        "curve": {"evaluation.curve_images": 64},
        "variants": {"static": static, "random": plan},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile", "-n", "-p", "--cores", "1"]
    config = ["--config", f"study={tmp_path / 'study.yaml'}"]
    done = subprocess.run([*command, *config], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    output = done.stdout + done.stderr
    for seed in (0, 1):
        assert f"run.name={json.dumps(f'tiny_sd-static-s{seed}')}" in output and f"run.seed={seed}" in output
    assert output.count("-m alter_lib.training ") == 3 and output.count("-m alter_lib.evaluation ") == 3
    assert output.count("-m alter_lib.evaluation.curve ") == 2 and "--teacher-only" not in output
    done = subprocess.run([*command, *config, "notebooks=true"], capture_output=True, text=True, cwd=ROOT)
    output = done.stdout + done.stderr
    assert output.count(" run_all.py --only 03 --params") == output.count(" run_all.py --only 05 --params") == 3, output
    cluster = [*command[:-2], "--workflow-profile", "workflow/profiles/slurm", "other"]  # a group, on a cluster
    done = subprocess.run([*cluster, *config], capture_output=True, text=True, cwd=ROOT)
    output = done.stdout + done.stderr
    assert done.returncode == 0 and output.count("-m alter_lib.training ") == 1, output
    assert "slurm_extra=--gres=gpu:1" in output and "OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} " in output


def test_of_a_study_whose_runs_are_all_committed_nothing_is_left(tmp_path):
    """Nothing to collect, either: on a fresh clone there are no runs that it could be collected of."""
    spec = {"group": "one", "seeds": 1, "set": {"hypernetwork.num_experts": 1}}
    study = {"out": str(tmp_path / "runs"), "results": str(tmp_path), "set": {}, "curve": {},
             "backbones": {"params/tiny_sd.yaml": {"snapshots": []}}, "variants": {"static": spec}}  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    (tmp_path / "table.csv").write_text("run,value\ntiny_sd-static-s0,1\n")
    command = [sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile", "--cores", "1"]
    done = subprocess.run(
        [*command, "--config", f"study={tmp_path / 'study.yaml'}"], capture_output=True, text=True, cwd=ROOT
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0 and "Nothing to be done" in output, output


def test_kept_rows_are_those_of_other_runs(runs: Path, tmp_path: Path) -> None:
    """A second collection renews its own runs, and leaves what the file has of others."""
    table, _ = collect(runs)
    path = tmp_path / "table.csv"
    assert merged(table, path) is table
    write_table(pd.concat([table.assign(value=-1.0), table.assign(run="elsewhere")]), path)
    found = merged(table, path)
    assert (found.run == "elsewhere").sum() == len(table) and len(found) == 2 * len(table)
    assert found[found.run != "elsewhere"].value.to_list() == table.value.to_list()
