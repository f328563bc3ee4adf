#!/usr/bin/env bash
# The student/teacher study:  bash pipelines/teacher_study.sh [FOLDER] [FLAGS OF PRETRAIN...]
#
# The notebook's four regimes, which differ in how the teacher is updated, with its network and settings
# (--recipe cifar): losses, and the spectra of the outputs of student and teacher for every patch of test images, in
# FOLDER/teacher_study.svg. By default 10 epochs of 8 steps on the bundled images, about half an hour on two CPU cores;
# existing runs are kept. The notebook's own run is
#
#     bash pipelines/teacher_study.sh teacher-study CIFAR10 --dataset-type cifar10 --epochs 10
set -euo pipefail
out=${1:-teacher-study}
shift || true
here=$(dirname "$0")
[ $# -gt 0 ] || set -- --epochs 10 --steps-per-epoch 8
TEST_IMAGES=200

step() { printf '\n== %s\n' "$*" >&2; }

train() {  # NAME FLAGS...
  local run=$out/$1
  shift
  step "$run"
  ssltool pretrain --method teacher --recipe cifar --seed 42 --monitor-every 0 "$@" --out "$run" --resume auto
}

mkdir -p "$out"
for update in sgd frozen copy ema; do
  train "$update" --set update="$update" "$@"
  for network in student teacher; do
    flag=$([ $network = teacher ] && echo --teacher || true)
    # The head has the outputs of every patch; --layer projector is their mean.
    ssltool save-reprs --pretrained "$out/$update/checkpoint.pt" ${flag:+"$flag"} --layer projector.5 --pool none \
      --split val --sample $TEST_IMAGES -o "$out/$update/$network.pt"
  done
done
# A run of epochs of two steps shows the first forty steps of the regime that collapses.
train first-steps --set update=sgd "$@" --epochs 20 --steps-per-epoch 2
python "$here/teacher_figure.py" "$out"
