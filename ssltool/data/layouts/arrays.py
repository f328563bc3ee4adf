"""Images as NumPy arrays (N, H, W[, C]): a .npy or .npz file, or a folder of .npy files.

The labels of ``NAME.npy`` are in ``NAME_labels.npy`` beside it. A .npz file, and a folder, has the arrays of each split
under MedMNIST's names (``train_images``, ``train_labels``, ``val_images``), Keras' names (``x_train``, ``y_train``,
``x_test``), those of the splits (``train``, ``train_labels``), or those of one split (``images``, ``labels``), in upper
or lower case. The val split is the test split if there is no other array for it. Pickles are not loaded.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ssltool.config import DataSettings
from ssltool.data.images import ImageSet
from ssltool.data.pixels import FLOAT, SAMPLE_IMAGES, PixelRules, evenly_spaced, settle, to_bytes, unused, value_type
from ssltool.data.splits import is_there
from ssltool.data.table_columns import Labels, are_names, labels_of, of_numbers
from ssltool.errors import SSLToolError, first_names
from ssltool.files.npy_files import read_npy, read_npz

TEST = {"test_images": "test_labels", "x_test": "y_test", "test": "test_labels"}
TRAIN = {"train_images": "train_labels", "x_train": "y_train", "train": "train_labels"}
NAMES = {
    "train": {**TRAIN, "images": "labels", "x": "y", "arr_0": "arr_1"},
    "val": {"val_images": "val_labels", "x_val": "y_val", "val": "val_labels", **TEST},
    "test": TEST,
}
"""The name of the images, and that of their labels, for each split; the first that there is is used."""

OPAQUE = (1.0, 255.0, 65535.0)
"""The values of alpha that may be those of opaque pixels."""

BLOCK = 256
"""Images that are scaled to 8 bits together."""


class Stored(NamedTuple):
    """The stored images of a split, their labels or None, and the ``name`` of their file or array."""

    images: np.ndarray
    labels: np.ndarray | None
    name: str


def recognise(folder: Path) -> bool:
    """Whether it is a .npy or .npz file, or a folder with an array of train images."""
    if folder.is_file():
        return folder.suffix.lower() in (".npy", ".npz")
    return not _files(folder).keys().isdisjoint(TRAIN)


def has_split(folder: Path, split: str) -> bool:
    """Whether there is an array of the split."""
    return is_there(_stored, folder, split)


def read(folder: Path, split: str, settings: DataSettings) -> ImageSet:
    """The images and labels of a split, as uint8 (N, C, H, W). Without labels, the images are unlabelled.

    Raises:
        SSLToolError: naming the file, if it cannot be read, or its arrays are no images or labels.
    """
    images, labels, name = _stored(folder, split)
    source = f"{folder}, {split} images"
    asked = PixelRules.of(settings)
    pixels, rules = _pixels(images, asked, source)
    numbers, classes = np.full(len(pixels), -1), tuple[str, ...]()
    if labels is not None:
        trained = _stored(folder, "train").labels if split != "train" and has_split(folder, "train") else None
        numbers, classes = _labels(labels, trained, source)
        if len(numbers) != len(pixels):
            raise SSLToolError(
                f"{source}: {len(pixels)} images, but labels of shape {labels.shape}; save one class per image (N,)"
            )
    rows = np.arange(len(pixels))
    in_memory = torch.from_numpy(pixels)
    alpha = images.ndim == 4 and images.shape[3] == 4
    found = ImageSet("arrays", split, numbers, rows, classes, images=in_memory, rules=rules)
    found = found.with_notes(*unused(asked, wide=images.dtype != np.uint8, alpha=alpha))
    if alpha:
        colour = rules.settings()["background"]
        found = found.with_notes(f"the fourth channel is alpha; the background is {colour} (--background)")
    if split == "val" and name in TEST:
        found = found.with_notes(f"val is read from {name}, because there is no other array for it")
    return found.without_labels(_how_to_label(folder, split, name)) if labels is None else found


def _stored(folder: Path, split: str) -> Stored:
    if folder.is_dir():
        files = _files(folder)
        images, labels = _first(files, split, folder, f"{split}.npy")
        return Stored(_load(files[images]), _load(files[labels]) if labels in files else None, images)
    if folder.suffix.lower() == ".npz":
        found = {name.lower(): array for name, array in read_npz(folder, mmap=True).items()}
        images, labels = _first(found, split, folder, next(iter(NAMES[split])))
        return Stored(found[images], found.get(labels), images)
    if split != "train":
        raise SSLToolError(f"{folder} has no {split} split; put train.npy and {split}.npy into a folder")
    beside = folder.with_name(f"{folder.stem}_labels.npy")
    return Stored(_load(folder), _load(beside) if beside.is_file() else None, folder.stem)


def _labels(labels: np.ndarray, trained: np.ndarray | None, source: str) -> Labels:
    """The labels of a split, of numbers or text, as in a table; ``trained`` are those of the train split."""
    own, known = (None if each is None or each.dtype.kind not in "US" else _texts(each) for each in (labels, trained))
    if trained is not None and (own is None) != (known is None) and are_names(own or known or ()):
        kinds = ("numbers", "names") if own is None else ("names", "numbers")
        raise SSLToolError(
            f"{source}: the labels are {kinds[0]}, and those of the train split {kinds[1]}; save both alike"
        )
    return of_numbers(labels, source) if own is None else labels_of(own, known, source)


def _texts(labels: np.ndarray) -> list[str]:
    found: list[str | bytes] = labels.ravel().tolist()
    return [name if isinstance(name, str) else name.decode(errors="backslashreplace") for name in found]


def _files(folder: Path) -> dict[str, Path]:
    """The .npy files of a folder by their names in lower case, without the suffix."""
    return {path.stem.lower(): path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".npy"}


def _first(found: Collection[str], split: str, source: Path, advice: str) -> tuple[str, str]:
    """The first of the names of a split that is among ``found``, and the name of its labels."""
    for images, labels in NAMES[split].items():
        if images in found:
            return images, labels
    arrays = first_names(sorted(found)) if found else "none"
    raise SSLToolError(f"{source} has no {split} images: its arrays are {arrays}; name the images {advice}")


def _load(file: Path) -> np.ndarray:
    if zipfile.is_zipfile(file):
        raise SSLToolError(f"{file} is an archive; name it .npz")
    return read_npy(file, mmap=True)


def _how_to_label(folder: Path, split: str, name: str) -> str:
    """Why the images called ``name`` have no labels: nothing has their name."""
    labels = NAMES[split].get(name, f"{name}_labels")
    if folder.suffix.lower() == ".npz" and folder.is_file():
        return f"{folder.name} has no labels of the {split} images; save them in it as {labels}"
    return f"there is no {labels}.npy beside the images; save the labels there"


def _pixels(images: np.ndarray, rules: PixelRules, source: str) -> tuple[np.ndarray, PixelRules]:
    """The images as uint8 (N, C, H, W) with C 1 or 3, and the rules with the range of their values."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3, 4):
        raise SSLToolError(
            f"{source}: the array has the shape {images.shape}; it must be (N, H, W), or (N, H, W, C) with 1, 3 or 4 "
            "channels last: numpy.moveaxis(x, 1, -1) moves them there, x[..., :3] selects three"
        )
    if not images.size:
        raise SSLToolError(f"{source}: the array has the shape {images.shape}, and no pixels; save it again")
    kind = value_type(images.dtype, source)
    if kind is not None:
        sample = ((kind, images[row, ..., :3]) for row in evenly_spaced(len(images), SAMPLE_IMAGES))
        rules = settle(rules, sample)
    elif images.shape[3] < 4:
        return images.transpose(0, 3, 1, 2), rules
    of_alpha = PixelRules(value_range=(0.0, _opaque(images[..., 3], source))) if images.shape[3] == 4 else None
    out = np.empty((len(images), 1 if images.shape[3] == 1 else 3, *images.shape[1:3]), np.uint8)
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        colours = block[..., :3] if kind is None else to_bytes(block[..., :3], kind, rules, source)
        alpha = None if of_alpha is None else to_bytes(block[..., 3:], kind or FLOAT, of_alpha, source)
        out[start : start + BLOCK] = _on_background(colours, alpha, rules).transpose(0, 3, 1, 2)
    return out, rules


def _opaque(alpha: np.ndarray, source: str) -> float:
    """The value of opaque pixels: the smallest of ``OPAQUE`` that no alpha exceeds. Colours may have another range."""
    low, high = float(alpha.min()), float(alpha.max())
    found = [value for value in OPAQUE if 0 <= low <= high <= value]
    if not found:
        raise SSLToolError(
            f"{source}: the fourth channel, alpha, has values from {low:g} to {high:g}, and opaque must be 1, 255 "
            "or 65535; scale it, or leave it out with x[..., :3]"
        )
    return found[0]


def _on_background(colours: np.ndarray, alpha: np.ndarray | None, rules: PixelRules) -> np.ndarray:
    if alpha is None:
        return colours
    share = alpha / 255.0
    return np.rint(share * colours + (1.0 - share) * np.array(rules.background)).astype(np.uint8)
