# %% [markdown]
# # Which checkpoint do I keep?
#
# A run of VICReg without its variance term, whose loss improves all the time. `rank --checkpoints` orders the saved
# checkpoints by a metric that needs no labels: here by the spread of the projections, `feature_std`. The bundled
# images have labels, so the table also shows the 20-NN accuracy, and how well the two orders agree.

# %%
set -e
ssltool pretrain -a resnet18_w4 --stem small-stride2 --image-size 16 \
  --method vicreg --set dim=64 --set hidden=64 --set std=0 --epochs 5 --steps-per-epoch 12 -b 64 --lr 0.4 --monitor-size 512 --save-every 1 -o run
ssltool rank run --checkpoints --layer projector --by feature_std --out checkpoints.csv

# %% [markdown]
# A plot of the table:

# %%
python - <<'END'
import matplotlib.pyplot as plt
import pandas as pd

table = pd.read_csv("checkpoints.csv").sort_values("epoch")
table = table.dropna(subset=["rank"])  # the untrained network has none
best = table.loc[table["rank"].idxmin()]
figure, axes = plt.subplots(1, 3, figsize=(8.5, 2.8), layout="constrained")
for axis, column in zip(axes, ("loss", "feature_std", "knn")):
    axis.plot(table["epoch"] + 1, table[column], "k-o")
    axis.plot(best["epoch"] + 1, best[column], "*", color="C1", markersize=16, label="ranked first")
    axis.set(xlabel="epoch", xticks=table["epoch"] + 1)
for axis, title in zip(axes, ("loss", "feature_std of the projections", "20-NN accuracy")):
    axis.set_title(title)
axes[0].legend()
figure.savefig("which-checkpoint.png")
END

# %% [markdown]
# ## What to see
#
# The star is the checkpoint that `rank` puts first. The loss, on the left, falls to 0 and would keep the last one.
# The spread of the projections rises while the network learns and falls when it collapses; its highest value is at
# the checkpoint with the highest accuracy. The order of the other checkpoints does not agree with their accuracies:
# the first epoch, with the untrained outputs still close together, is last. The table says so (the correlations
# below it, with their wide intervals), and `ssltool watch run` or `ssltool report run` shows the same curves.
