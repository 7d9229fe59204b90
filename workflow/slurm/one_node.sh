#!/usr/bin/env bash
# Training on the GPUs of one node; all arguments go to the training:
#     sbatch workflow/slurm/one_node.sh --params params/sd21.yaml --set run.out=/scratch/me/runs
# Five minutes before the time is up, and when it is preempted, the job saves and queues itself again, until the run is
# finished. Cancel it with `scancel` for good.
#SBATCH --job-name=alter
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=16
#SBATCH --mem=128G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=slurm-%x-%j.out
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this with sbatch from the repository}"
source workflow/slurm/requeue.sh

export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not take it over by itself
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240 # seconds that the processes have for their checkpoint
gpus=${SLURM_GPUS_ON_NODE:-1}
several=()
[ "$gpus" -gt 1 ] && several=(--multi_gpu)

run_until_signal srun --kill-on-bad-exit=0 accelerate launch "${several[@]}" --num_machines 1 \
    --num_processes "$gpus" --mixed_precision no --dynamo_backend no -m alter_lib.training "$@"
