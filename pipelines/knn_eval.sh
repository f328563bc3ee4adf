#!/usr/bin/env bash
# k-NN accuracy of a run:  bash pipelines/knn_eval.sh ARCH RUN_DIR [DATA]
# DATA defaults to the run's training data. SAVE_FLAGS are additional flags of save-reprs.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 ARCH RUN_DIR [DATA]" >&2; exit 2; }
arch=$1 run=${2%/} data=${3:-}
ssltool save-reprs -a "$arch" --pretrained "$run/checkpoint.pt" --split both -o "$run/reprs" \
  ${data:+--data "$data"} ${SAVE_FLAGS:-}
ssltool knn --folder "$run/reprs" --source train_reprs_e0.pt --target val_reprs_e0.pt --metric cos
