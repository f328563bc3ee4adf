#!/usr/bin/env bash
# Spectrum and collapse metrics of a run:  bash pipelines/svd_eval.sh ARCH RUN_DIR [DATA]
# DATA defaults to the run's training data. SAVE_FLAGS are additional flags of save-reprs.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 ARCH RUN_DIR [DATA]" >&2; exit 2; }
arch=$1 run=${2%/} data=${3:-}
ssltool save-reprs -a "$arch" --pretrained "$run/checkpoint.pt" --split train -o "$run/reprs/train_reprs_e0.pt" \
  ${data:+--data "$data"} ${SAVE_FLAGS:-}
ssltool collapse "$run/reprs/train_reprs_e0.pt" --type svd --plot "$run/reprs/spectrum.png"
