# %% [markdown]
# # Duplicates and leaks in my data
#
# A val image that is also in train makes an accuracy too good. Here three are put there on purpose: one as the same
# file, one saved as JPEG, and one at another size. An untrained network is enough to find them.

# %%
set -e
python - <<'END'
from pathlib import Path

from PIL import Image

from ssltool.data.bundled import FOLDER
from ssltool.data.raw import read_idx

pixels = read_idx(FOLDER / "t10k-images-idx3-ubyte.xz")
for split in ("train", "val"):
    Path(f"photos/{split}").mkdir(parents=True)
for number in range(200):
    split = "train" if number < 150 else "val"
    Image.fromarray(pixels[number]).resize((56, 56)).save(f"photos/{split}/{number:03d}.png")
Path("photos/val/same-file.png").write_bytes(Path("photos/train/003.png").read_bytes())
Image.open("photos/train/011.png").save("photos/val/as-jpeg.jpg", quality=90)
Image.open("photos/train/025.png").resize((28, 28)).save("photos/val/smaller.png")
END

# %% [markdown]
# Representations of both splits, and the groups that have images of both:

# %%
network="--pretrained random -a resnet18_w8 --image-size 56 --stem small-stride2"
ssltool save-reprs photos --split train $network -o train.pt
ssltool save-reprs photos --split val $network -o val.pt
ssltool duplicates train.pt val.pt --out leaks.csv --sheet duplicates.png

# %% [markdown]
# ## What to see
#
# The sheet has the same file in both splits, as *equal*, and below it the near-duplicates. The copy as JPEG is the
# nearest pair. The other pairs are different objects of one outline, which an untrained network finds alike; and the
# copy at half the size is not found: it is farther than the default threshold. So look at the sheet, take a network
# that was trained on your images, and raise `--threshold` to find more. `leaks.csv` has the names.
