"""What made a run: recorded whole, merged over several records, without places of the machine."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from alter_lib import provenance
from alter_lib.params import ROOT, load_params


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_is_told_and_whether_the_tree_differs_from_it(tmp_path: Path):
    assert provenance.git_state(tmp_path) == {"commit": None, "dirty": None}
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "a")
    assert provenance.git_state(tmp_path) == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "b").write_text("untracked code can run too")
    assert provenance.git_state(tmp_path)["dirty"] is True


def test_record_writes_what_a_rerun_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", [str(ROOT / "run_all.py"), "--set", "run.seed=7", "a b"])
    params = load_params("params/smoke.yaml", {"run.seed": 7})
    provenance.record(params, tmp_path, wall_seconds={"01": 1.5})
    content = json.loads((tmp_path / "provenance.json").read_text())
    assert content["command"] == "python run_all.py --set run.seed=7 'a b'"
    assert content["seeds"] == {"run": 7, "sampling": 0, "evaluation": 0}
    assert content["versions"]["python"] == sys.version.split()[0] and content["versions"]["torch"]
    assert content["hardware"]["cores"] >= 1
    assert load_params(tmp_path / "params.yaml") == params


def test_a_process_that_has_looked_for_kernels_still_has_its_command(monkeypatch: pytest.MonkeyPatch):
    """run_all.py does, which loads a part of ipykernel."""
    from jupyter_client.kernelspec import find_kernel_specs

    find_kernel_specs()
    importlib.import_module("ipykernel.kernelapp")
    monkeypatch.setattr(sys, "argv", ["run_all.py"])
    assert provenance.command() == "python run_all.py"


def test_a_second_record_merges_mappings_replaces_values_and_keeps_the_command_of_a_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    params = load_params("params/smoke.yaml")
    monkeypatch.setattr(sys, "argv", ["run_all.py"])
    provenance.record(params, tmp_path, wall_seconds={"01": 1.5}, device="cpu")
    import ipykernel.kernelapp

    monkeypatch.setattr(ipykernel.kernelapp.IPKernelApp, "initialized", lambda: True)
    content = provenance.record(params, tmp_path, wall_seconds={"02": 2.5}, images=3)
    assert content["wall_seconds"] == {"01": 1.5, "02": 2.5} and content["images"] == 3
    assert content["command"] == "python run_all.py"
    assert json.loads((tmp_path / "provenance.json").read_text()) == content


def test_places_of_the_machine_are_cut_out():
    text = f"{ROOT}/alter_lib/x.py {ROOT} {ROOT}x {sys.prefix}/lib {Path.home()}/data"
    assert provenance.relative(text) == f"alter_lib/x.py . {ROOT}x <env>/lib ~/data"
