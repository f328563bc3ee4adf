#!/usr/bin/env bash
# Every evaluation of several pretrained networks:  bash pipelines/evaluate.sh [FOLDER]
#
# Pretrains three methods on the bundled images and evaluates each, and an untrained network of the same architecture:
# kNN, linear probes and fine-tuning on a tenth and on all of the labels, clustering, collapse metrics. Writes a report
# about all runs and prints the table of docs/evaluation.md. Takes about half an hour on two CPU cores; existing results
# are kept. NAMES selects the networks (also no-stop-gradient); TRAIN, REPRS, PROBE, FINETUNE and SCAN are additional
# flags of the commands.
set -euo pipefail
out=${1:-evaluation}
here=$(dirname "$0")
NAMES=${NAMES:-simsiam simclr vicreg}
mkdir -p "$out"

COMMON="-a resnet18_w16 --stem imagenet --no-zero-init-residual --crop-min 0.5 -b 64 --epochs 8 --seed 10 --print-freq 125
  --precision fp32"
SIMSIAM="--dim 512 --pred-dim 128 --fix-pred-lr --lr 0.2"

step() { printf '\n== %s\n' "$*" >&2; }

flags() {  # NAME: the pretraining flags of a network
  case $1 in
    simsiam) echo "$SIMSIAM" ;;
    no-stop-gradient) echo "$SIMSIAM --set stop_grad=false" ;;
    simclr) echo "--method simclr --set dim=128 --set hidden=512 --lr 0.2" ;;
    vicreg) echo "--method vicreg --set dim=512 --set hidden=512 --lr 0.05" ;;
    *) echo "no such network: $1" >&2 && exit 1 ;;
  esac
}

once() {  # FILE COMMAND...: writes the command's output into the file, unless it exists
  local file=$1
  shift
  [ -s "$file" ] && return
  step "$file"
  "$@" >"$file.tmp"
  mv "$file.tmp" "$file"
}

# shellcheck disable=SC2086
measure() {  # NAME CHECKPOINT [--random]: one JSON file per evaluation, in the network's folder
  local to=$out/$1 network="--pretrained $2 ${3:-}"
  local train=$to/reprs/train_reprs_e0.pt val=$to/reprs/val_reprs_e0.pt
  mkdir -p "$to"
  once "$to/reprs.json" ssltool save-reprs $network --split both -o "$to/reprs" ${REPRS:-} --json
  once "$to/knn.json" ssltool knn "$train" "$val" -k 20 --neighbours "$to/neighbours.pt" --json
  once "$to/collapse.json" ssltool collapse "$train" --json
  for share in 0.1 1; do
    once "$to/linear-$share.json" ssltool lincls --reprs "$train" "$val" --solver lbfgs --c-grid 0.001,0.01,0.1,1 \
      --labels-fraction $share --overwrite -o "$to/linear-$share" ${PROBE:-} --json
  done
  once "$to/finetune-0.1.json" ssltool finetune $network --crop-min 0.5 --labels-fraction 0.1 --epochs 30 --seeds 2 \
    --resume auto -o "$to/finetune-0.1" ${FINETUNE:-} --json
  once "$to/finetune-1.json" ssltool finetune $network --crop-min 0.5 --epochs 8 --resume auto -o "$to/finetune-1" \
    ${FINETUNE:-} --json
  once "$to/scan.json" ssltool scan $network --kmeans --epochs 5 --selflabel-epochs 3 --resume auto -o "$to/scan" \
    ${SCAN:-} --json
}

for name in $NAMES; do
  # shellcheck disable=SC2046,SC2086
  once "$out/$name.run" ssltool pretrain $COMMON $(flags "$name") ${TRAIN:-} --out "$out/$name/run" --resume auto
  measure "$name" "$out/$name/run/checkpoint.pt"
done
measure untrained "$out/${NAMES%% *}/run/checkpoint.pt" --random

# shellcheck disable=SC2046
ssltool report $(printf "$out/%s/run " $NAMES) -o "$out/report.html" >/dev/null
# shellcheck disable=SC2086
python "$here/evaluate_table.py" "$out" untrained $NAMES
