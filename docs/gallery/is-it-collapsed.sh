# %% [markdown]
# # Is my network collapsed?
#
# Two runs of SimCLR on the bundled images. The second lacks the negatives, which prevent its collapse. The network
# is tiny and trains for 60 steps, so that the example takes seconds; your runs are measured with the same commands.

# %%
set -e
network="-a resnet18_w4 --stem small-stride2 --image-size 16 --method simclr --set dim=64 --set hidden=64"
training="--epochs 2 --steps-per-epoch 30 -b 64 --lr 0.4 --monitor-size 512"
ssltool pretrain $network $training -o healthy
ssltool pretrain $network $training --set negatives=false -o collapsed

# %% [markdown]
# The output of the projector is what the loss sees, so a collapse is strongest there. `collapse` gives a verdict
# with its evidence, and the spectra. Without `--layer` it would be the representation before the projector.

# %%
for run in healthy collapsed; do
  ssltool save-reprs --pretrained $run/checkpoint.pt --layer projector --sample 1000 -o $run.pt
done
ssltool collapse healthy.pt collapsed.pt --plot is-it-collapsed.png

# %% [markdown]
# ## What to see
#
# For the first network the verdict is *healthy*, for the second *partial collapse*, with the evidence: only about
# two of the 64 dimensions are in use, and more than half of the directions are dead. In the picture its largest
# singular value stands far above all others, and its share of the sum (on the right) begins above 0.8. `pretrain`
# has measured the same after each epoch: its lines on the terminal show that the collapsed run has the lower
# accuracy, by a wide margin.
