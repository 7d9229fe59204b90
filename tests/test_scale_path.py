"""The whole path at small size: shards of 1000 pictures -> filter -> cache -> two processes -> kill -> resume ->
artefact. `accelerate launch` runs on the CPU, with the embedded tiny_sd."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import yaml
from img2dataset_shards import score, write_shards
from safetensors.torch import load_file
from tiny_training import assert_equal

from alter_lib import ExpertPlan, load_params, load_pipeline, train
from alter_lib.data.cache import build
from alter_lib.params import ROOT, Params
from alter_lib.training import checkpoints
from alter_lib.training.launch import PATIENCE, launch_command, launch_training

COUNT, CORRUPT, SMALL, LEAST = 1000, [13, 510], [12, 998], 6.0


def params_of(folder: Path, name: str, processes: int) -> Params:
    """In float64, where Adam blows rounding up by little: while the student is nearly the teacher, gradients cancel."""
    data = {"source": "webdataset", "path": str(folder / "laion"), "cache_folder": str(folder / "cache"), "limit": None,
            "min_size": 20, "min_aesthetic": LEAST, "cache_dtype": "float32"}  # fmt: skip
    training = {"steps": 4, "hypernetwork_steps": 2, "batch_size": 4, "num_processes": processes,
                "hypernetwork_learning_rate": 1e-3}  # fmt: skip
    overrides = {f"data.{key}": value for key, value in data.items()}
    overrides |= {f"training.{key}": value for key, value in training.items()}
    overrides |= {"backbone.dtype": "float64", "backbone.device": "cpu", "run.name": name, "run.out": str(folder)}
    return load_params("params/smoke.yaml", overrides)


def killed_after_a_step(params: Params) -> None:
    """The launched training, which gets SIGTERM as from SLURM once history.csv holds a step."""
    params.run_folder.mkdir(parents=True)
    file, history = params.run_folder / "killed.yaml", params.run_folder / "history.csv"
    file.write_text(yaml.safe_dump(params.dump()))
    launcher = subprocess.Popen(launch_command(str(file), params.training.num_processes), cwd=ROOT,
                                env=os.environ | PATIENCE)  # fmt: skip
    while launcher.poll() is None and not (history.exists() and history.read_text().count("\n") > 1):
        time.sleep(0.02)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait() != 0


def test_shards_to_artefact_in_two_processes_with_a_kill_between(tmp_path: Path) -> None:
    write_shards(tmp_path / "laion", COUNT, 100, corrupt=CORRUPT, small=SMALL)
    one, two = params_of(tmp_path, "one", 1), params_of(tmp_path, "two", 2)
    kept = [i for i in range(COUNT) if i not in CORRUPT + SMALL and score(i) >= LEAST]
    assert build(one)["kept"] == len(kept) == 496

    killed_after_a_step(two)
    latest = two.run_folder / "checkpoints" / "latest"
    assert checkpoints.damage(latest) is None and checkpoints.state(latest)["step"] < 4
    assert not (two.run_folder / "alter").exists()

    launch_training(two)  # as notebook 03 does
    assert json.loads((two.run_folder / "provenance.json").read_text())["processes"] == 2
    assert ExpertPlan.load(two.run_folder / "alter") == load_pipeline(two.run_folder / "alter").unet._alter_patch.plan

    alone = train(one).folder / "checkpoints" / "latest"
    for name in ("student", "hypernetwork", "ema"):
        found, expected = (load_file(path / f"{name}.safetensors") for path in (latest, alone))
        assert_equal(found, expected, tolerance=1e-6)
