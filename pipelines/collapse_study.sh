#!/usr/bin/env bash
# What each metric sees of a collapse, and which misses it:  bash pipelines/collapse_study.sh [FOLDER]
#
# Known cases on the bundled images, all with one budget: SimSiam with and without its stop-gradient, the four regimes of
# the student/teacher study, capacity (base width 16, 32, 64) against data (5, 25, 100 %), and one pass over the data
# against ordinary shuffling. About an hour on one CPU core; what is there already is not made again.
# The tables and the picture of docs/study.md are its output.
set -euo pipefail
out=${1:-study}
here=$(dirname "$0")
mkdir -p "$out"

COMMON="--stem imagenet --no-zero-init-residual --crop-min 0.5 -b 64 --steps-per-epoch 125 --epochs 8 --seed 10"
SIMSIAM="--dim 512 --pred-dim 128 --fix-pred-lr --lr 0.2"
TEACHER="--method teacher --optimizer adamw --lr 0.002 --set dim=128 --set hidden=512"

step() { printf '\n== %s\n' "$*" >&2; }

train() {  # NAME FLAGS...
  local run=$out/$1
  shift
  step "$run"
  [ -e "$run/done" ] && return
  # shellcheck disable=SC2086
  ssltool pretrain $COMMON "$@" --print-freq 125 --save-every 2 --out "$run" --resume auto >/dev/null
  touch "$run/done"
}

for percent in 5 25; do
  python - "$out/$percent.npy" "$percent" <<'PYTHON'
import sys
import numpy as np
everything = np.random.RandomState(0).permutation(8000)  # the smaller share lies within the larger
np.save(sys.argv[1], np.sort(everything[: 8000 * int(sys.argv[2]) // 100]))
PYTHON
done

# shellcheck disable=SC2086
{
  train w16-100 -a resnet18_w16 $SIMSIAM
  train no-stop-gradient -a resnet18_w16 $SIMSIAM --set stop_grad=false
  for update in sgd frozen copy ema; do train "teacher-$update" -a resnet18_w16 $TEACHER --set update=$update; done
  train w16-single-pass -a resnet18_w16 $SIMSIAM --strategy current
  for width in 16 32 64; do
    for percent in 5 25; do
      train "w$width-$percent" -a "resnet18_w$width" $SIMSIAM --idx-path "$out/$percent.npy"
    done
    train "w$width-100" -a "resnet18_w$width" $SIMSIAM
  done
  train w64-single-pass -a resnet18_w64 $SIMSIAM --strategy current
}
