"""Prepares the images of the study in a folder, study/data by default.

Fashion-MNIST (MIT licence), 70,000 grey images of 28 pixels. On Debian and Ubuntu:

    sudo apt install dataset-fashion-mnist
    python pipelines/study/prepare.py fashion /usr/share/datasets/fashion-mnist

Emoji, the symbols of Unicode as two vendors draw them, 64 pixels, resized to 32. The packages (MIT) hold the images of
Google (Apache 2.0) and Twitter (CC BY 4.0). Their sisters of Apple ("not licensed for commercial usage") and Facebook
("no clear licensing") are read too if they are given; the study does not use them.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    python pipelines/study/prepare.py emoji emoji-datasource-google-16.0.0.tgz emoji-datasource-twitter-16.0.0.tgz

Drawings of openclipart (public domain), labelled by folder, resized to 32 pixels:

    sudo apt install openclipart-png
    python pipelines/study/prepare.py openclipart /usr/share/openclipart/png

The emoji and the drawings become the arrays of ``--dataset-type arrays``. A symbol in all its skin tones, genders and
vendors, and images that are nearly equal, are one group. A fifth of the groups is val, so no group is in both splits.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

FASHION = [f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
SIZE = 32
NEARLY_EQUAL = 0.06
"""Root mean square difference of two images, of values in 0 to 1, below which they are one group."""

MODIFIERS = {"FE0F", "200D", "2640", "2642", "27A1", *(f"1F3F{tone}" for tone in "BCDEF")}
"""Code points that do not make another symbol: variants, joiners, genders, directions and skin tones."""

PEOPLE = {"1F468", "1F469"}
"""Man and woman; 1F9D1 is a person."""

ONE_GROUP = ("family", "time", "keycap", "alphanum", "arrow")
"""Subcategories whose symbols differ in details only, so that each is one group."""


def fashion(source: Path, out: Path) -> None:
    """Links the files of Fashion-MNIST."""
    missing = [name for name in FASHION if not (source / name).exists()]
    if missing:
        sys.exit(f"error: {source} has no {missing[0]}; name the folder of Fashion-MNIST's four .gz files")
    out.mkdir(parents=True, exist_ok=True)
    for name in FASHION:
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to((source / name).resolve())


def emoji(packages: Sequence[Path], out: Path) -> None:
    """Writes the symbols of the vendors, labelled by category."""
    images, labels, groups = [], [], []
    for package in packages:
        with tarfile.open(package) as archive:
            symbols = read_symbols(archive.extractfile("package/emoji.json").read())
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                if folder.endswith("/64") and name in symbols:
                    category, group = symbols[name]
                    images.append(thumbnail(archive.extractfile(member).read()))
                    labels.append(category)
                    groups.append(group)
    write(out, np.stack(images), labels, groups)


def read_symbols(document: bytes) -> dict[str, tuple[str, str]]:
    """The category and the group of each image of ``emoji.json``; its swatches of skin tones are left out."""
    found = {}
    for symbol in json.loads(document):
        if symbol["category"] == "Component":
            continue
        for one in (symbol, *symbol.get("skin_variations", {}).values()):
            found[one["image"]] = symbol["category"], group_of(symbol["unified"], symbol["subcategory"])
    return found


def group_of(unified: str, subcategory: str) -> str:
    """The group of a symbol: its code points without ``MODIFIERS``, of a person of any gender."""
    if subcategory in ONE_GROUP:
        return subcategory
    points = [point for point in unified.split("-") if point not in MODIFIERS]
    return "-".join("1F9D1" if point in PEOPLE and len(points) > 1 else point for point in points)


def openclipart(folder: Path, out: Path) -> None:
    """Writes the drawings below ``folder``, labelled by the first folder of their paths."""
    files = sorted(path for path in folder.glob("*/**/*.png") if path.is_file())
    if not files:
        sys.exit(f"error: {folder} has no folders of .png files; name the folder png of openclipart")
    images = np.stack([thumbnail(path.read_bytes()) for path in files])
    write(out, images, [path.relative_to(folder).parts[0] for path in files], [str(path) for path in files])


def thumbnail(data: bytes) -> np.ndarray:
    """The image on white, scaled to fit into (SIZE, SIZE, 3), uint8."""
    with Image.open(io.BytesIO(data)) as image:
        picture = image.convert("RGBA")
    picture.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (SIZE, SIZE), "white")
    canvas.alpha_composite(picture, ((SIZE - picture.width) // 2, (SIZE - picture.height) // 2))
    return np.asarray(canvas.convert("RGB"))


def write(out: Path, images: np.ndarray, labels: Sequence[str], groups: Sequence[str]) -> None:
    """Writes both splits, and prints their sizes."""
    joined = merge_groups(images, groups)
    val = is_val(joined)
    out.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", ~val), ("val", val)):
        np.save(out / f"{split}.npy", images[rows])
        np.save(out / f"{split}_labels.npy", np.asarray(labels)[rows])
    most = np.bincount(joined).max()
    print(f"{(~val).sum()} train and {val.sum()} val images, {len(set(labels))} classes, {joined.max() + 1} groups")
    print(f"the largest group has {most} images; written to {out}")


def merge_groups(images: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Numbers of groups (N,): the given ones, joined where images of two are nearly equal."""
    _, given = np.unique(np.asarray(groups), return_inverse=True)
    a, b = near_pairs(images)
    first = np.array([np.flatnonzero(given == g)[0] for g in range(given.max() + 1)])
    rows, columns = np.concatenate([np.arange(len(given)), a]), np.concatenate([first[given], b])
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(given), len(given)))
    return np.asarray(connected_components(graph, directed=False)[1])


def near_pairs(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of images (N, H, W, C), uint8, that differ by less than ``NEARLY_EQUAL``."""
    flat = images.reshape(len(images), -1).astype(np.float32) / 255
    norms = (flat**2).sum(axis=1)
    pairs = []
    for start in range(0, len(flat), 1024):
        block = slice(start, start + 1024)
        squares = norms[block, None] + norms - 2 * flat[block] @ flat.T
        a, b = np.nonzero(squares / flat.shape[1] < NEARLY_EQUAL**2)
        pairs.append(np.stack([a + start, b]))
    a, b = np.concatenate(pairs, axis=1)
    return a[a < b], b[a < b]


def is_val(groups: np.ndarray, share: float = 0.2, seed: int = 0) -> np.ndarray:
    """Which images (N,) are val: those of random groups, until they are ``share`` of all."""
    sizes = np.bincount(groups)
    order = np.random.RandomState(seed).permutation(len(sizes))
    chosen = order[np.cumsum(sizes[order]) <= share * len(groups)]
    return np.isin(groups, chosen)


def main() -> None:
    """Prepares a dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=("fashion", "emoji", "openclipart"))
    parser.add_argument("source", type=Path, nargs="+", help="the folder, or the .tgz packages of emoji")
    parser.add_argument("--out", type=Path, default=Path("study/data"), help="folder of the datasets")
    given = parser.parse_args()
    out = given.out / given.dataset
    if given.dataset == "emoji":
        emoji(given.source, out)
    else:
        {"fashion": fashion, "openclipart": openclipart}[given.dataset](given.source[0], out)


if __name__ == "__main__":
    main()
