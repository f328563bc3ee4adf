#!/usr/bin/env bash
# The student/teacher study:  bash pipelines/teacher_study.sh [FOLDER] [FLAGS OF PRETRAIN...]
#
# Four regimes, which differ in how the teacher is updated, with the notebook's network and settings (--recipe cifar):
# losses, and the spectra of the outputs of student and teacher for every patch of test images, in
# FOLDER/teacher_study.svg. By default 8 epochs of 5 steps on the bundled images, about ten minutes on two CPU cores;
# existing runs are kept. The notebook's own run is
#
#     bash pipelines/teacher_study.sh teacher-study CIFAR10 --dataset-type cifar10 --epochs 10
set -euo pipefail
out=${1:-teacher-study}
shift || true
here=$(dirname "$0")
[ $# -gt 0 ] || set -- --epochs 8 --steps-per-epoch 5
TEST_IMAGES=200

step() { printf '\n== %s\n' "$*" >&2; }

train() {  # NAME FLAGS...
  local run=$out/$1
  shift
  step "$run"
  ssltool pretrain --method teacher --recipe cifar --seed 42 --precision fp32 --monitor-every 0 "$@" --out "$run" \
    --resume auto
}

mkdir -p "$out"
for update in sgd frozen copy ema; do
  train "$update" --set update="$update" "$@"
  for network in student teacher; do
    flag=$([ $network = teacher ] && echo --momentum-teacher || true)
    # The head has the outputs of every patch; --layer projector is their mean.
    ssltool save-reprs --pretrained "$out/$update/checkpoint.pt" ${flag:+"$flag"} --layer projector.5 --pool none \
      --split val --sample $TEST_IMAGES -o "$out/$update/$network.pt"
  done
done
python "$here/teacher_figure.py" "$out"
