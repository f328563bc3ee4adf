# %% [markdown]
# # My own images: a folder, tar shards, a dataset of Hugging Face
#
# The same 300 images in three forms. DATA may be any of them, and nothing else changes in a command or a call. It
# needs `pip install 'ssltool[hf]'` for the last form.

# %%
import io
import tarfile
from pathlib import Path

import datasets
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import ssltool
from ssltool.data.bundled import FOLDER
from ssltool.data.raw import read_idx

CLASSES = ["t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
pixels = read_idx(FOLDER / "t10k-images-idx3-ubyte.xz")
labels = read_idx(FOLDER / "t10k-labels-idx1-ubyte.xz")
images = [Image.fromarray(image) for image in pixels[:300]]

# %% [markdown]
# A folder for each class; a tar with a `.png` and a `.cls` of each image, as WebDataset's; and a folder of
# `save_to_disk`.

# %%
with tarfile.open("shards-000.tar", "w") as shard:
    for number, (image, label) in enumerate(zip(images, labels, strict=False)):
        folder = Path("folder") / f"{label}-{CLASSES[label]}"
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number:03d}.png")
        for ending, content in (("png", (folder / f"{number:03d}.png").read_bytes()), ("cls", str(label).encode())):
            member = tarfile.TarInfo(f"{number:03d}.{ending}")
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
rows = {"image": images, "label": labels[:300].tolist()}
datasets.Dataset.from_dict(rows, features=features).save_to_disk("hugging-face")

# %% [markdown]
# Each is embedded by the same untrained network. The labels are those of the class folders, of the `.cls` members
# and of the column `label`.

# %%
network = {"pretrained": "random", "arch": "resnet18_w4", "stem": "small-stride2", "image_size": 28}
found = {}
for data in ("folder", "shards-000.tar", "hugging-face"):
    (saved,) = ssltool.save_reprs(data=data, out=f"{Path(data).stem}.pt", **network, verbose=True)
    found[data] = ssltool.load_representations(saved.path)

# %%
rows = np.asarray(found["folder"].representations)
components = np.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][:2]
figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
for axis, (data, saved) in zip(axes, found.items(), strict=True):
    x, y = components @ (np.asarray(saved.representations) - rows.mean(0)).T
    axis.scatter(x, y, c=saved.targets, cmap="tab10", s=8)
    axis.set(title=f"{data}: {len(saved.targets)} images", xlabel="component 1", xticks=[], yticks=[])
axes[0].set_ylabel("component 2")
figure.savefig("own-images.png")

# %% [markdown]
# ## What to see
#
# The three panels are equal: each form gives the same 300 images with the same labels, whose classes are the
# colours. The messages say how each was read, and what was left out. The network is untrained, so the classes
# overlap.
