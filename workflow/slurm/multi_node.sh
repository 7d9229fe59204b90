#!/usr/bin/env bash
# Training on the GPUs of several nodes, a launcher on each; all arguments go to the training:
#     sbatch --nodes=4 workflow/slurm/multi_node.sh --params params/sd21.yaml --set run.out=/scratch/me/runs
# The repository, its environment, the latent cache and run.out lie on a file system that all nodes see. Five minutes
# before the time is up, and when it is preempted, the job saves and queues itself again, until the run is finished.
#SBATCH --job-name=alter
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
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
export MAIN_ADDRESS MAIN_PORT GPUS
MAIN_ADDRESS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
MAIN_PORT=$((10000 + SLURM_JOB_ID % 20000)) # jobs that share a node do not meet
GPUS=$((SLURM_NNODES * ${SLURM_GPUS_ON_NODE:-1}))

# SLURM_NODEID is known to each task alone, so the command is put together there
run_until_signal srun --kill-on-bad-exit=0 bash -c 'exec accelerate launch --multi_gpu \
    --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" --num_processes "$GPUS" \
    --main_process_ip "$MAIN_ADDRESS" --main_process_port "$MAIN_PORT" --rdzv_backend static \
    --mixed_precision no --dynamo_backend no -m alter_lib.training "$@"' launch "$@"
