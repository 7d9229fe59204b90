# Sourced by one_node.sh and multi_node.sh: runs a job step; on SIGUSR1 (time nearly up) or SIGTERM (preempted) the
# training gets SIGTERM, finishes its step, saves and leaves, and the job is queued again.

run_until_signal() {
    local stopped=0 status=0
    trap 'stopped=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1 TERM # to the step, not to this shell
    "$@" &
    local step=$!
    while kill -0 "$step" 2>/dev/null; do # wait returns early, once for each signal
        status=0
        wait "$step" || status=$?
    done
    if [ "$stopped" = 1 ]; then
        scontrol requeue "$SLURM_JOB_ID"
        exit 0
    fi
    exit "$status"
}
