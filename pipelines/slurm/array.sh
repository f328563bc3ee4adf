#!/bin/bash
#SBATCH --job-name=ssltool-array
#SBATCH --cpus-per-task=8
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
# One run for each row of a table of settings, in the format of "ssltool table --out":
#
#     sbatch --array=1-12 --gpus=1 --time=04:00:00 pipelines/slurm/array.sh runs.csv FOLDER FLAGS OF PRETRAIN...
#
# A column is a setting of pretrain (lr, batch_size) or an option of the method, "dim (option)"; an empty cell is the
# default. Flags after FOLDER are those of all runs. The folders of the runs are FOLDER/1, FOLDER/2, ...; afterwards:
#
#     ssltool table FOLDER/*/
table=${1:?a table of runs} folder=${2:?a folder for the runs}
shift 2
row=$SLURM_ARRAY_TASK_ID
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not take it from sbatch, from Slurm 22.05 on
srun --kill-on-bad-exit=1 ssltool pretrain --config "$table:$row" --out "$folder/$row" --save-steps 500 --resume auto "$@"
code=$?
job=${SLURM_ARRAY_JOB_ID}_$row
if [ $code -eq 138 ] || [ $code -eq 143 ]; then # a job that is cancelled does not run any more
  scontrol show job "$job" | grep -q JobState=RUNNING && scontrol requeue "$job"
fi
exit $code
