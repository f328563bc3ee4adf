#!/usr/bin/env bash
# The five training regimes of "Understanding Collapse in Non-Contrastive Siamese Representation Learning", the k-NN
# accuracy of each, and all five spectra in one table and one plot:
#
#   bash pipelines/paper.sh DATA [ARCH [ORDER.npy]]
#
# DATA is an ImageNet-style folder, or anything else that ssltool pretrain takes. Without ORDER.npy, the
# single pass creates a random order and the other regimes share it. Environment variables: EPOCHS (100), BATCH (256),
# HYBRID_EPOCH (40, the epochs of the single pass before the hybrid starts), LAST (20, the percentage of regime 4),
# FLAGS (additional flags of pretrain).
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 DATA [ARCH [ORDER.npy]]" >&2; exit 2; }
data=$1 arch=${2:-resnet18} order=${3:-}
here=$(dirname "$0")
epochs=${EPOCHS:-100} batch=${BATCH:-256} hybrid=${HYBRID_EPOCH:-40} last=${LAST:-20}
train() {  # NAME ID FLAGS...
  local name=$1 id=$2
  shift 2
  # shellcheck disable=SC2086
  ssltool pretrain "$data" -a "$arch" --fix-pred-lr --epochs "$epochs" -b "$batch" --seed 10 \
    --exp-name "$name" --exp-id "$id" --resume auto ${FLAGS:-} "$@"
}

train "$arch-multiepoch" 1
train "$arch-singlepass" 2 --strategy current --save-every "$hybrid" ${order:+--incremental-idx-path "$order"}
order=${order:-logs/$arch-singlepass_0002/order.npy}
train "$arch-cumulative" 3 --strategy accumulate --incremental-idx-path "$order"
train "$arch-last$last" 4 --strategy last --chunk-size $((epochs * last / 100)) --incremental-idx-path "$order"
# The hybrid continues the single pass on all images, with the same cosine schedule, and then its own checkpoints.
start=logs/$arch-singlepass_0002/checkpoint_$(printf %04d $((hybrid - 1))).pt
# shellcheck disable=SC2086
ssltool pretrain "$data" -a "$arch" --fix-pred-lr --epochs "$epochs" -b "$batch" --seed 10 \
  --exp-name "$arch-hybrid" --exp-id 5 --resume "$start" ${FLAGS:-}

files=()
for run in multiepoch_0001 singlepass_0002 cumulative_0003 "last${last}_0004" hybrid_0005; do
  echo "== $arch-$run"
  bash "$here/knn_eval.sh" "$arch" "logs/$arch-$run"
  files+=("logs/$arch-$run/reprs/train_reprs_e0.pt")
done
ssltool collapse "${files[@]}" --type svd --plot "logs/$arch-spectra.png"
