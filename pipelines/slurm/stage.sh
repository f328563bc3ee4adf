#!/bin/bash
#SBATCH --cpus-per-task=8
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
# Runs a command of ssltool until it is done, however often the job is interrupted:
#
#     sbatch --gpus=1 --time=01:00:00 pipelines/slurm/stage.sh save-reprs DATA --pretrained RUN/checkpoint.pt -o REPRS
#
# A command that does not save its progress starts again from the beginning.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not take it from sbatch, from Slurm 22.05 on
srun --kill-on-bad-exit=1 ssltool "$@"
code=$?
if [ $code -eq 138 ] || [ $code -eq 143 ]; then # a job that is cancelled does not run any more
  scontrol show job "$SLURM_JOB_ID" | grep -q JobState=RUNNING && scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
