#!/bin/bash
#SBATCH --job-name=ssltool-study
#SBATCH --cpus-per-task=1
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
# The runs of pipelines/study/runs.csv, one in each task of an array:
#
#     sbatch --array=1-195 --time=01:00:00 pipelines/slurm/study.sh PIPELINES/study DATA FOLDER
#
# PIPELINES/study is the folder of runs.csv; DATA has the images of prepare.py, and FOLDER gets the runs. A job that is
# interrupted is requeued and goes on from its checkpoint; submitting the array again runs what is missing.
study=${1:?the folder of runs.csv} data=${2:?the folder of the images} folder=${3:?a folder for the runs}
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
run=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$study/runs.csv" | cut -d, -f1)
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not take it from sbatch, from Slurm 22.05 on
srun --kill-on-bad-exit=1 \
  python "$study/run.py" "${run:?there is no row $SLURM_ARRAY_TASK_ID}" --data "$data" --out "$folder"
code=$?
job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
if [ $code -eq 138 ] || [ $code -eq 143 ]; then # a job that is cancelled does not run any more
  scontrol show job "$job" | grep -q JobState=RUNNING && scontrol requeue "$job"
fi
exit $code
