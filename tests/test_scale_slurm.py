"""The submission scripts with stand-ins for SLURM's commands and for accelerate: what is launched on each node, and
that a signal is passed on, waited for and followed by a requeue."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from alter_lib.params import ROOT

ARGUMENTS = ["--params", "params/sd21.yaml", "--set", "run.out=a b", "run.seed=1"]
FOLDER = ROOT / "workflow" / "slurm"
STANDINS = {
    "srun": """while [[ $1 == --* ]]; do shift; done
for node in $(seq 0 $((SLURM_NNODES - 1))); do SLURM_NODEID=$node "$@" & echo $! >> pids; done
status=0
for pid in $(cat pids); do wait "$pid" || status=$?; done
exit $status""",
    "accelerate": """echo "$SLURM_NODEID $(printf '%q ' "$@")" >> launched
[ -e stay ] || exit ${EXIT:-0}
trap 'echo saved >> log; exit 1' TERM
touch "ready-$SLURM_NODEID"
while true; do sleep 0.05; done""",
    "scancel": 'echo "scancel $*" >> log; kill -TERM $(cat pids)',
    "scontrol": 'if [ "$1" = show ]; then printf "node0\\nnode1\\n"; else echo "scontrol $*" >> log; fi',
}


@pytest.fixture
def job(tmp_path: Path):
    """Starts a script as SLURM would, on two GPUs a node, in a folder that looks like the repository."""
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow" / "slurm").symlink_to(FOLDER)
    for name, body in STANDINS.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    def start(script: str, nodes: int, **environment: str) -> subprocess.Popen:
        slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "1234567", "SLURM_NNODES": str(nodes),
                 "SLURM_JOB_NODELIST": "node[0-1]", "SLURM_GPUS_ON_NODE": "2", "SLURM_CPUS_PER_TASK": "8"}  # fmt: skip
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(["bash", str(FOLDER / script), *ARGUMENTS], cwd=tmp_path,
                                env=os.environ | slurm | {"PATH": path} | environment)  # fmt: skip

    return start


@pytest.mark.parametrize(("script", "nodes"), [("one_node.sh", 1), ("multi_node.sh", 2)])
def test_each_node_launches_its_share_of_one_training(job, tmp_path: Path, script: str, nodes: int) -> None:
    assert job(script, nodes).wait(60) == 0
    launched = sorted((tmp_path / "launched").read_text().splitlines())
    assert len(launched) == nodes and not (tmp_path / "log").exists()
    for rank, line in enumerate(launched):
        node, command, *arguments = shlex.split(line)
        found = launch_command_parser().parse_args(arguments)
        assert (node, command, found.machine_rank or 0) == (str(rank), "launch", rank)
        assert (found.num_machines, found.num_processes, found.multi_gpu) == (nodes, 2 * nodes, True)
        assert found.module and found.training_script == "alter_lib.training"
        assert found.training_script_args == ARGUMENTS
        if nodes > 1:
            assert (found.main_process_ip, found.main_process_port, found.rdzv_backend) == ("node0", 24567, "static")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize(("script", "nodes"), [("one_node.sh", 1), ("multi_node.sh", 2)])
def test_a_signal_lets_all_save_and_queues_the_job_again(
    job, tmp_path: Path, script: str, nodes: int, number: signal.Signals
) -> None:
    (tmp_path / "stay").touch()
    process = job(script, nodes)
    while not all((tmp_path / f"ready-{node}").exists() for node in range(nodes)):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(60) == 0
    log = (tmp_path / "log").read_text().splitlines()
    assert log == ["scancel --signal=TERM 1234567", *["saved"] * nodes, "scontrol requeue 1234567"]


def test_a_training_that_fails_is_not_queued_again(job, tmp_path: Path) -> None:
    assert job("multi_node.sh", 2, EXIT="2").wait(60) == 2
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.sh")), ids=lambda path: path.name)
def test_bash_reads_it(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
