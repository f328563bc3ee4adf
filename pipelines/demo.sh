#!/usr/bin/env bash
# A demonstration of ssltool in a few minutes on two CPU cores:  make demo, or  bash pipelines/demo.sh [FOLDER]
#
# Trains SimSiam on the bundled images, with its stop-gradient and without, which collapses, and compares both with an
# untrained network in a table and a plot for each layer. The networks are small (ResNet-18 of base width 16, 28-pixel
# images), so the accuracies are low: compare the three with each other.
set -euo pipefail
out=${1:-demo}
here=$(dirname "$0")
rm -rf "$out"
mkdir -p "$out"

SETTINGS="-a resnet18_w16 --stem imagenet --no-zero-init-residual --dim 512 --pred-dim 128 --fix-pred-lr
  --epochs 8 -b 64 --lr 0.2 --crop-min 0.5 --seed 10 --precision fp32"

step() { printf '\n== %s\n' "$*" >&2; }

step "SimSiam"
# shellcheck disable=SC2086
ssltool pretrain $SETTINGS --print-freq 125 --out "$out/simsiam" >/dev/null
step "the same without stop-gradient"
# shellcheck disable=SC2086
ssltool pretrain $SETTINGS --print-freq 125 --set stop_grad=false --out "$out/no-stop-gradient" >/dev/null

measure() {  # NAME CHECKPOINT FLAGS...: representations and accuracies of one network
  local name=$1 checkpoint=$2
  shift 2
  step "measuring $name"
  ssltool save-reprs --pretrained "$checkpoint" "$@" --split both -o "$out/$name/backbone" >/dev/null
  ssltool save-reprs --pretrained "$checkpoint" "$@" --layer projector -o "$out/$name/projector/train_reprs_e0.pt" >/dev/null
  ssltool knn "$out/$name/backbone/train_reprs_e0.pt" "$out/$name/backbone/val_reprs_e0.pt" --json >"$out/$name/knn.json"
  ssltool lincls --pretrained "$checkpoint" "$@" --epochs 5 -b 64 --lr 1 --out "$out/$name/probe" --json >"$out/$name/lincls.json"
}
measure untrained "$out/simsiam/checkpoint.pt" --random
measure simsiam "$out/simsiam/checkpoint.pt"
measure no-stop-gradient "$out/no-stop-gradient/checkpoint.pt"

step "collapse"
runs="untrained simsiam no-stop-gradient"
for layer in backbone projector; do
  # shellcheck disable=SC2046
  ssltool collapse $(printf "$out/%s/$layer/train_reprs_e0.pt " $runs) --plot "$out/spectra-$layer.png" --json >"$out/collapse-$layer.json"
done
python "$here/demo_table.py" "$out"
