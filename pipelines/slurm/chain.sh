#!/usr/bin/env bash
# Submits the jobs pretrain -> save-reprs -> knn and collapse -> report of one run; each waits for those before it:
#
#     bash pipelines/slurm/chain.sh DATA RUN "FLAGS OF SBATCH" FLAGS OF PRETRAIN...
#     bash pipelines/slurm/chain.sh /data/birds /runs/birds "--gpus=1 --time=04:00:00" -a resnet18
#
# Prints the numbers of the jobs. Each is requeued when it is interrupted, and has the tasks, one rank each, that the
# flags of sbatch ask for; the report has one. A job whose predecessor failed is cancelled; the report does not need knn,
# which fails for images without labels.
set -euo pipefail
data=${1:?the folder of the images} run=${2:?the run folder} resources=${3-}
shift 3
here=$(cd "$(dirname "$0")" && pwd)
reprs=$run/reprs

submit() {  # DEPENDENCY NAME COMMAND...
  local after=$1 name=$2
  shift 2
  # shellcheck disable=SC2086
  sbatch --parsable --kill-on-invalid-dep=yes --dependency="$after" --job-name="$name" $resources \
    --output="$run/%x-%j.log" "$here/stage.sh" "$@"
}

mkdir -p "$run"
# shellcheck disable=SC2086
train=$(sbatch --parsable $resources --output="$run/%x-%j.log" "$here/pretrain.sh" "$data" "$run" "$@")
save=$(submit "afterok:$train" save-reprs save-reprs "$data" --pretrained "$run/checkpoint.pt" --split both \
  -o "$reprs")
knn=$(submit "afterok:$save" knn knn "$reprs/train_reprs_e0.pt" "$reprs/val_reprs_e0.pt" --json)
collapse=$(submit "afterok:$save" collapse collapse "$reprs/train_reprs_e0.pt" --json)
resources="$resources --nodes=1 --ntasks=1"
report=$(submit "afterok:$collapse,afterany:$knn" report report "$run" -o "$run/report.html")
printf '%s\n' "pretrain $train" "save-reprs $save" "knn $knn" "collapse $collapse" "report $report"
