"""Training in several processes from a notebook: `accelerate launch` as a subprocess, since a notebook that has touched
CUDA can't fork."""

import subprocess
import sys

import yaml

from .params import ROOT, Params


def launch_training(params: Params) -> None:
    """Run `accelerate launch -m alter_lib.training` with training.num_processes and wait, its progress passed through.

    Raises CalledProcessError where a process fails; the run's checkpoints then serve the next call.
    """
    params.run_folder.mkdir(parents=True, exist_ok=True)
    path = params.run_folder / "launched.yaml"
    path.write_text(yaml.safe_dump(params.dump(), sort_keys=False))
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        str(params.training.num_processes),
        *(["--cpu"] if params.backbone.device == "cpu" else []),
        "-m",
        "alter_lib.training",
        "--params",
        str(path),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
