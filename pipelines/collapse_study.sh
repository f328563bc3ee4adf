#!/usr/bin/env bash
# Which collapses each metric detects:  bash pipelines/collapse_study.sh [FOLDER]
#
# Known cases on the bundled images, all with the same budget: SimSiam with and without its stop-gradient, the four
# regimes of the student/teacher study, capacity (base width 16, 32, 64) against data (5, 25, 100 %), and a single pass
# over the data against ordinary shuffling. Takes about an hour and a half on one CPU core; existing results are kept.
# The tables and the figure of docs/study.md are its output.
set -euo pipefail
out=${1:-study}
here=$(dirname "$0")
mkdir -p "$out"

COMMON="--stem imagenet --no-zero-init-residual --crop-min 0.5 -b 64 --steps-per-epoch 125 --epochs 8 --seed 10
  --precision fp32"
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
everything = np.random.RandomState(0).permutation(8000)  # nested: the larger share contains the smaller
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
  train w32-single-pass -a resnet18_w32 $SIMSIAM --strategy current
}

reprs() {  # NAME RUN FLAGS...: representations of the train images (both layers) and val images, views of a sample
  local name=$1 run=$2
  shift 2
  [ -e "$out/$name/views.pt" ] && return
  step "measuring $name"
  {
    ssltool save-reprs --pretrained "$out/$run/checkpoint.pt" "$@" --split both -o "$out/$name/backbone"
    ssltool save-reprs --pretrained "$out/$run/checkpoint.pt" "$@" --layer projector -o "$out/$name/projector.pt"
    ssltool save-reprs --pretrained "$out/$run/checkpoint.pt" "$@" --views 20 --sample 500 -o "$out/$name/views.pt"
    ssltool knn "$out/$name/backbone/train_reprs_e0.pt" "$out/$name/backbone/val_reprs_e0.pt" --json
  } 2>"$out/$name/log" | tail -n 1 >"$out/$name/knn.json"
}

RUNS="w16-100 no-stop-gradient teacher-sgd teacher-frozen teacher-copy teacher-ema
  w16-5 w16-25 w32-5 w32-25 w32-100 w64-5 w64-25 w64-100 w16-single-pass w32-single-pass"
for width in 16 32 64; do
  mkdir -p "$out/w$width-untrained"
  reprs "w$width-untrained" "w$width-100" --random
done
mkdir -p "$out/teacher-untrained"
reprs teacher-untrained teacher-sgd --random
for run in $RUNS; do
  case $run in
    *-5 | *-25) reprs "$run" "$run" --all ;;  # of all images, not only those of the run
    *) reprs "$run" "$run" ;;
  esac
done

step "collapse"
names="w16-untrained w32-untrained w64-untrained teacher-untrained $RUNS"
for layer in backbone/train_reprs_e0 projector views; do
  metrics=all
  [ "$layer" = views ] && metrics=alignment,lidar
  # shellcheck disable=SC2046
  ssltool collapse $(printf "$out/%s/$layer.pt " $names) --metrics "$metrics" --pair-rows 2000 --json >"$out/$(basename "$layer").json" 2>>"$out/log"
done
# shellcheck disable=SC2046
ssltool collapse $(printf "$out/%s/projector.pt " w16-100 no-stop-gradient teacher-sgd teacher-ema) --plot "$out/spectra.svg" >/dev/null 2>&1
python "$here/study_table.py" "$out"
