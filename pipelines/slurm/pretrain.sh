#!/bin/bash
#SBATCH --job-name=ssltool
#SBATCH --cpus-per-task=8
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
# Pretrains until it is done, however often the job is interrupted:
#
#     sbatch --gpus=1 --time=04:00:00 pipelines/slurm/pretrain.sh DATA RUN FLAGS...            one GPU
#     sbatch --nodes=1 --ntasks-per-node=4 --gpus-per-node=4 ... pipelines/slurm/pretrain.sh ...  four GPUs
#     sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 ... pipelines/slurm/pretrain.sh ...  two nodes
#
# One task is one rank. 120 seconds before the time limit Slurm sends USR1: the ranks save and exit with 138, the job is
# requeued and continues. So does a preempted job, which gets TERM: if it ends within its grace time, Slurm does not
# requeue it. RUN must be on a file system that all nodes share.
data=${1:?the folder of the images} run=${2:?the run folder}
shift 2
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not take it from sbatch, from Slurm 22.05 on
srun --kill-on-bad-exit=1 ssltool pretrain "$data" --out "$run" --save-steps 500 --resume auto "$@"
code=$?
if [ $code -eq 138 ] || [ $code -eq 143 ]; then # a job that is cancelled does not run any more
  scontrol show job "$SLURM_JOB_ID" | grep -q JobState=RUNNING && scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
