# %% [markdown]
# # Single pass and hybrid
#
# The collapse paper trains on consecutive chunks of the data, each only once (`--strategy current`, the single
# pass), and goes on from there with all images (the hybrid). The three runs here have the same number of steps.

# %%
set -e
training="-a resnet18_w4 --stem small-stride2 --image-size 16 --set dim=64 --set pred_dim=16 --set fix_pred_lr=true
  --epochs 6 --steps-per-epoch 8 -b 64 --lr 1 --monitor-size 512"
ssltool pretrain $training -o all-images
ssltool pretrain $training --strategy current --save-every 3 -o single-pass
ssltool pretrain $training --resume single-pass/checkpoint_0002.pt -o hybrid

# %% [markdown]
# `ssltool plot schedule` shows which images each epoch uses, and `plot curves` what the monitor measured.

# %%
ssltool rank all-images single-pass hybrid --by auc
ssltool plot schedule single-pass -o schedule.png
ssltool plot curves all-images single-pass hybrid -o single-pass-hybrid.png

# %% [markdown]
# ## What to see
#
# The hybrid has the first three epochs of the single pass, on whose curves it lies, and its own after these. All
# three networks are healthy. The single pass has the lowest rank and accuracy here, and the hybrid recovers; but one
# seed and differences of a few per cent show no more than noise. The effect of the paper is not to be expected: in
# 48 steps no run sees an image often. For a real comparison raise `--epochs` and `--steps-per-epoch`, as in
# `pipelines/paper.sh`.
