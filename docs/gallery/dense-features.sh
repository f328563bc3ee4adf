# %% [markdown]
# # Dense features of a ViT
#
# Segmentation and detection use a vector for each patch. A good accuracy of images does not say that these differ
# from patch to patch. A small ViT learns with MoCo v3; its patches are measured before and after.

# %%
set -e
ssltool pretrain -a vit_w64_depth2_p4 --image-size 28 --method mocov3 \
  --set dim=64 --set hidden=128 --set temperature=0.2 --optimizer adamw --lr 0.004 \
  --epochs 3 --steps-per-epoch 12 -b 64 --monitor-size 512 -o run
ssltool save-reprs --pretrained run/checkpoint.pt --random --split val --sample 300 --tokens all -o before.pt
ssltool save-reprs --pretrained run/checkpoint.pt --split val --sample 300 --tokens all -o after.pt

# %% [markdown]
# `patch_cosine` is 1 if all patches of an image are equal; `patch_rank` counts the directions that the patches of an
# image have.

# %%
ssltool collapse before.pt after.pt --metrics patch_cosine,patch_rank,cls_patch_cosine
ssltool plot patches after.pt --rows 5 -o dense-features.png

# %% [markdown]
# ## What to see
#
# Each row is an image, after the training: its pixels, the first three principal components of its patches as
# colours, the cosine of each patch to the framed one, and the norms. The background has one colour, and the objects
# have others; the cosines are far from 1, so the patches are not oversmoothed, and no norm stands out. In so few
# steps the values of `patch_cosine` and `patch_rank` hardly differ from those of the untrained network: the training
# has not harmed the patches, and has not improved them. Measure your checkpoints in the same way, with `--metrics
# gram_drift --reference` for the change since an earlier one.
