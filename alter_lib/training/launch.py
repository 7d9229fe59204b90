"""Training in several processes from a notebook: `accelerate launch` as a subprocess, since a notebook that has touched
CUDA can't fork."""

import os
import subprocess
import sys

import yaml

from ..common.files import write_text
from ..params import ROOT, Params

PATIENCE = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600"}  # seconds for a checkpoint after Ctrl-C or SIGTERM, instead of 30


def launch_command(params_file: str, num_processes: int) -> list[str]:
    """`accelerate launch` of the training. `--multi_gpu` starts several processes on CPUs too; with `--cpu` it is one,
    whatever the number asked for."""
    options = ["--multi_gpu"] if num_processes > 1 else []
    options += ["--num_processes", str(num_processes), "--num_machines", "1", "--dynamo_backend", "no"]
    options += ["--mixed_precision", "no"]  # the params have the last word
    launch = [sys.executable, "-m", "accelerate.commands.launch", *options]
    return [*launch, "-m", "alter_lib.training", "--params", params_file]


def launch_training(params: Params) -> None:
    """Run the training with training.num_processes and wait, its progress passed through.

    An interrupt reaches the processes, which save and leave; it is raised when they have.
    Raises CalledProcessError where a process fails; the run's checkpoints then serve the next call.
    """
    path = params.run_folder / "launched.yaml"
    write_text(path, yaml.safe_dump(params.dump(), sort_keys=False))
    command = launch_command(str(path), params.training.num_processes)
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | PATIENCE) as process:
        try:
            process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
