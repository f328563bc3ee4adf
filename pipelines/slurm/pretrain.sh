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
# requeued and continues. A preempted job (TERM) saves, too, and Slurm requeues it. RUN must be on a file system that all
# nodes share.
data=${1:?the folder of the images} run=${2:?the run folder}
shift 2
srun --kill-on-bad-exit=1 ssltool pretrain "$data" --out "$run" --save-steps 500 --resume auto "$@"
code=$?
[ $code -eq 138 ] && scontrol requeue "$SLURM_JOB_ID"
exit $code
