# %% [markdown]
# # Which checkpoint do I keep?
#
# The loss does not say which checkpoint has the best representations, and labels may be missing. `rank --checkpoints`
# orders the saved checkpoints of a run by a metric that needs no labels. The bundled images have labels, so that the
# table also shows the 20-NN accuracy and how well the two orders agree.

# %%
set -e
ssltool pretrain -a resnet18_w4 --stem small-stride2 --image-size 16 --method simclr --set dim=64 --set hidden=64 \
  --epochs 5 --steps-per-epoch 15 -b 64 --lr 0.4 --monitor-size 512 --save-every 1 -o run
ssltool rank run --checkpoints --by effective_rank --out checkpoints.csv

# %% [markdown]
# A plot of the table:

# %%
python - <<'END'
import matplotlib.pyplot as plt
import pandas as pd

table = pd.read_csv("checkpoints.csv")
print(table.columns)
END

# %% [markdown]
# ## What to see
