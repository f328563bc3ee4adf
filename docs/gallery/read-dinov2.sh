# %% [markdown]
# # Read a DINOv2 checkpoint
#
# `--pretrained` reads folders of transformers. To need no download, this example writes a small DINOv2 with random
# weights; with the network at hand, put `hf-hub:facebook/dinov2-small` in the place of `dinov2`. It needs `pip
# install 'ssltool[transformers]'`.

# %%
set -e
python - <<'END'
import torch
import transformers

torch.manual_seed(0)
sizes = {"image_size": 28, "patch_size": 7, "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3}
config = transformers.Dinov2Config(**sizes)
transformers.Dinov2Model(config).save_pretrained("dinov2")
processor = transformers.BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
processor.save_pretrained("dinov2")
END

# %% [markdown]
# What is it, and which network does ssltool build for it?

# %%
ssltool inspect dinov2

# %% [markdown]
# Class tokens and patches of 300 images, and a verdict on the class tokens: `--tokens all` saves both, `cls` the
# class tokens only.

# %%
ssltool save-reprs --dataset-type bundled --split val --pretrained dinov2 --sample 300 --tokens cls -o cls.pt
ssltool save-reprs --dataset-type bundled --split val --pretrained dinov2 --sample 300 --tokens all -o tokens.pt
ssltool collapse cls.pt
ssltool collapse tokens.pt --metrics patch_cosine,patch_rank,cls_patch_cosine,high_norm_tokens
ssltool plot patches tokens.pt --rows 4 -o read-dinov2.png

# %% [markdown]
# ## What to see
#
# Each row is an image: the pixels that the network sees, the first three principal components of its patches as
# colours, the cosine of each patch to the framed one, and the norms. The random network is judged *healthy*: it
# keeps the images apart, although it has learned nothing. Equal patches, such as those of the black background, have
# equal colours. All norms are equal, because a layer norm is last. With trained weights, parts of an object have one
# colour.
