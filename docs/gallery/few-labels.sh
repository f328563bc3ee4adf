# %% [markdown]
# # Few labels: PAWS or a probe
#
# With 100 labels, 10 of each class, for the 8,000 bundled images: PAWS uses them while it trains. SimCLR uses none,
# and a probe learns from 100 labels afterwards. An untrained network with the same probe is the baseline.

# %%
set -e
network="-a resnet18_w8 --stem small-stride2 --image-size 16"
training="--epochs 2 --steps-per-epoch 10 -b 64 --lr 0.4 --monitor-size 512"
ssltool pretrain $network $training --method simclr --set dim=64 --set hidden=64 -o simclr
ssltool pretrain $network $training --method paws --set dim=64 --set labels_fraction=0.0125 --set support_per_class=4 \
  --set local_crops=0 -o paws

# %% [markdown]
# The same protocol for all three: logistic regression on the representations of 100 labelled images, evaluated on
# the val images.

# %%
ssltool save-reprs --pretrained simclr/checkpoint.pt --random --split both -o reprs/untrained
for run in simclr paws; do
  ssltool save-reprs --pretrained $run/checkpoint.pt --split both -o reprs/$run
done
for name in untrained simclr paws; do
  ssltool lincls --reprs reprs/$name/train_reprs_e0.pt reprs/$name/val_reprs_e0.pt --solver lbfgs \
    --labels-fraction 0.0125 -o probe-$name --json >$name.json
done

# %%
python - <<'END'
import json
from pathlib import Path

import matplotlib.pyplot as plt

names = ("untrained", "simclr", "paws")
accuracies = [100 * json.loads(Path(f"{name}.json").read_text())["acc1"] for name in names]
figure, axis = plt.subplots(figsize=(4.5, 3), layout="constrained")
axis.bar_label(axis.bar(names, accuracies, color=["0.7", "C0", "C1"]), fmt="%.0f")
axis.set(title="accuracy of a probe on 100 labels", ylim=(0, 100), ylabel="%")
figure.savefig("few-labels.png")
END

# %% [markdown]
# ## What to see
#
# Both trainings give a representation from which 100 labels teach much more than from that of the untrained network.
# PAWS, which saw labels while it trained, is not better than SimCLR after these 20 steps, and the monitor finds a
# partial collapse in it. Its paper trains for 100 epochs and more. Compare methods at your own number of labels and
# epochs, and with several seeds.
