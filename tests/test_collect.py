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
from alter_lib.collect import collect, write_table
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
        (run / "provenance.json").write_text(json.dumps({"wall_seconds": {"training": 10.0 + seed}}))
        figures = [
            {"name": "fid_alexnet", "method": "alter", "steps": 20, "value": value, "interval": [value - 1, value + 1]},
            {"name": "total_macs", "method": "alter", "steps": 20, "value": 10},
        ]
        (run / "metrics.json").write_text(json.dumps({"metrics": figures, "notes": []}))
    shutil.copytree(folder / "tiny_sd-no_kd-s0", folder / "unfinished")
    (folder / "unfinished" / "metrics.json").unlink()
    return folder


def test_a_row_a_figure_with_the_facts_of_its_run(runs):
    table, left_out = collect(runs)
    fid = table[table.name == "fid_alexnet"].set_index("training_seed")
    assert fid.value.to_dict() == {0: 7.5, 1: 8.5} and fid.low.to_dict() == {0: 6.5, 1: 7.5}
    assert set(table.variant) == {"no_kd"} and set(table.backbone) == {"tiny_sd"}
    assert set(table.switches) == {1} and set(table.experts_used) == {2} and set(table.achieved_ratio) == {1.0}
    assert fid.training_seconds.to_dict() == {0: 10.0, 1: 11.0}
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


STUDY = yaml.safe_load((ROOT / "workflow" / "study.yaml").read_text())


@pytest.mark.parametrize("variant", STUDY["variants"])
@pytest.mark.parametrize("base", STUDY["backbones"])
def test_a_variant_of_the_study_changes_what_it_names_and_nothing_else(base, variant):
    changes = STUDY["variants"][variant]["set"]
    before, after = load_params(base).dump(), load_params(base, changes).dump()
    differing = {f"{section}.{key}" for section in before for key in before[section]
                 if before[section][key] != after[section][key]}  # fmt: skip
    assert differing == set(changes)


def test_the_workflow_plans_a_training_and_an_evaluation_a_run(tmp_path):
    """A dry run by the engine itself, on a study of one variant with two seeds."""
    variants = {"static": {"seeds": 2, "set": {"hypernetwork.num_experts": 1}}}
    folders = {"out": str(tmp_path / "runs"), "results": str(tmp_path / "results")}
    study = {**folders, "backbones": ["params/tiny_sd.yaml"], "variants": variants}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile", "-n", "-p", "--cores", "1"]
    command += ["--config", f"study={tmp_path / 'study.yaml'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    output = done.stdout + done.stderr
    for seed in (0, 1):
        assert f"run.name=tiny_sd-static-s{seed}" in output and f"run.seed={seed}" in output
    assert output.count("alter_lib.training") == 2 and output.count("alter_lib.evaluation") == 2
