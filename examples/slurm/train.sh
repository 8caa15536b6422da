# Trains with one process for each task of a Slurm job. The sbatch files read it with `source`, so that its trap is in
# the shell that Slurm signals. Arguments of the job: a recipe, `output_dir`, and further options.

: "${2:?give a recipe and an output_dir: sbatch FILE RECIPE OUTPUT_DIR [OPTIONS]}"
recipe=$1 output_dir=$2
shift 2

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not read it from sbatch
export OMP_NUM_THREADS=$SRUN_CPUS_PER_TASK

# `latest` needs a checkpoint. A requeued job without one begins anew.
start=()
if compgen -G "$output_dir/checkpoint-*/" >/dev/null; then
    start=(--resume_from_checkpoint latest)
elif [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
    start=(--overwrite_output_dir true)
fi

# exec: Slurm's signals reach the process that trains. A launcher between them would end it after 30 seconds.
srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec python -m adversarial_mlm train "$@"
' train "$recipe" --output_dir "$output_dir" "$@" "${start[@]}" &
training=$!

# TERM comes 120 seconds before the end of the job's time, to this shell alone. scancel with a signal sends it to the
# tasks and cancels nothing; a TERM to srun would cancel the step, and kill it 30 seconds later.
stopped=""
pass_on() {
    stopped=yes
    trap '' TERM
    scancel --signal=TERM "$SLURM_JOB_ID"
}
trap pass_on TERM

wait "$training"
status=$?
if [ -n "$stopped" ]; then # the trap ended the first wait
    wait "$training"
    status=$?
fi

# 143: the run was stopped by TERM and has saved a checkpoint. The same job waits for its next turn.
if [ -n "$stopped" ] && [ "$status" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
