"""Names and folders to images and labels.

An ``ImageSet`` either holds all images in memory as uint8 (they share one size) or the paths of files of varying
size, which ``loader`` decodes as they are needed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm.auto import tqdm

from ssltool.config import DATASETS, SPLITS, DataSettings
from ssltool.data import bundled, raw
from ssltool.data.strategies import read_numbers
from ssltool.errors import SSLToolError, UsageError, first_line, unknown
from ssltool.training.progress import has_bars, is_quiet

MEMORY_LIMIT = 2 * 2**30
"""Bytes up to which image files of one size are decoded into memory once."""

AT_ONCE = 1024
"""Image files that are read ahead of their use; bounds the memory that they take meanwhile."""

OWN_SIZE_LIMIT = 96
"""Pixels up to which images that share one size are used at that size."""

ARRAYS = {
    "bundled": (raw.fashion_mnist, ("train", "val")),
    "fashion-mnist": (raw.fashion_mnist, ("train", "val")),
    "cifar10": (raw.cifar10, ("train", "val")),
    "cifar100": (raw.cifar100, ("train", "val")),
    "stl10": (raw.stl10, ("train", "val", "unlabeled")),
}

# The paper's --dataset_type spellings that are no NAME_SPLIT of a name in DATASETS.
PAPER_NAMES = {
    "places": ("places365", None),
    "places_simsiam_train": ("places365", "train"),
    "places_train": ("places365", "train"),
    "places_val": ("places365", "val"),
}


@dataclass(frozen=True)
class ImageSet:
    """The images of one split.

    ``labels`` (N,) int64, -1 where unlabelled; ``index`` (N,) int64, each image's number in the whole dataset;
    ``images`` (N, C, H, W) uint8 with C 1 or 3, or None where ``paths`` are given; ``size`` (width, height) if all
    files share one; ``skipped`` counts unreadable files.
    """

    name: str
    split: str
    labels: np.ndarray
    index: np.ndarray
    classes: tuple[str, ...] = ()
    images: Tensor | None = None
    paths: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def own_size(self) -> int | None:
        """The side of the images if all are squares of one size up to 96 pixels."""
        width, height = self.size or (0, 0) if self.images is None else self.images.shape[:-3:-1]
        return int(width) if width == height and 0 < width <= OWN_SIZE_LIMIT else None

    def select(self, rows: np.ndarray) -> ImageSet:
        """The images in ``rows``, in that order."""
        return dataclasses.replace(
            self,
            labels=self.labels[rows],
            index=self.index[rows],
            images=None if self.images is None else self.images[torch.from_numpy(rows)],
            paths=None if self.paths is None else tuple(self.paths[i] for i in rows),
        )

    def describe(self) -> str:
        """One line for people: what these images are."""
        labelled = int((self.labels >= 0).sum())
        kind = f"{len(self.classes)} classes" if self.classes else "labelled" if labelled else "unlabelled"
        if self.images is None:
            shape = "files of {} x {}".format(*self.size) if self.size else "files of varying size"
        else:
            channels, height, width = self.images.shape[1:]
            shape = f"{width} x {height} {'grey' if channels == 1 else 'colour'}, in memory"
        left_out = f", {self.skipped} unreadable left out" if self.skipped else ""
        return f"{self.name} {self.split}: {len(self):,} images, {kind}, {shape}{left_out}"


def open_dataset(settings: DataSettings, split: str) -> ImageSet:
    """The images that the settings name.

    Raises:
        SSLToolError: if the folder, the split or the file of numbers is missing, broken or empty, or if an image
            that had to be read cannot be.
    """
    name, own_split, needs_numbers = parse_type(settings.dataset_type)
    split = own_split or split
    if needs_numbers and settings.idx_path is None:
        raise UsageError(
            f"--dataset-type {settings.dataset_type} is a subset; name its images with --idx-path FILE.npy"
        )
    name = detect(settings.data) if name == "auto" else name
    if name != "bundled" and settings.data is None:
        raise UsageError(f"--dataset-type {settings.dataset_type} needs the folder of its images as DATA")
    if name == "bundled" and settings.data is not None:
        raise UsageError("--dataset-type bundled comes with ssltool and takes no DATA; leave one of the two out")
    if settings.small and name != "places365":
        raise UsageError(f"--small chooses a version of Places365 and does nothing with {name}; leave it out")
    if settings.download:
        _download(name, settings, split)
    folder = bundled.FOLDER if settings.data is None else Path(settings.data)
    if not folder.is_dir():
        raise no_folder(folder)
    images = _open(name, folder, split, settings)
    if settings.idx_path is not None:
        images = images.select(read_numbers(settings.idx_path, len(images), "--idx-path"))
    if settings.skip_corrupt and images.paths is None:
        raise SSLToolError(f"--skip-corrupt is for image files and does nothing with {name}; leave it out")
    if images.paths is not None:
        images = _into_memory(images, settings.skip_corrupt)
    if not len(images):
        raise SSLToolError(f"no readable images are left in {folder}")
    return images


def no_folder(folder: Path) -> SSLToolError:
    """The error for images that are not where they should be, by the command line or by a checkpoint."""
    return SSLToolError(f"no such folder: {folder}; name the images' folder as DATA")


def parse_type(dataset_type: str) -> tuple[str, str | None, bool]:
    """``--dataset-type`` as (name, split or None, whether it is a subset by ``--idx-path``).

    Raises:
        SSLToolError: for an unknown name.
    """
    text = dataset_type.removesuffix("_subset")
    subset = text != dataset_type
    if text in PAPER_NAMES:
        return *PAPER_NAMES[text], subset
    base, _, end = text.rpartition("_")
    name, split = (base, end) if end in SPLITS else (text, None)
    name = name.replace("_", "-")
    if name not in DATASETS:
        raise unknown(
            "dataset type", dataset_type, [*DATASETS, *PAPER_NAMES, "imagenet_train", "imagenet_train_subset"]
        )
    return name, split, subset


def detect(data: str | None) -> str:
    """The dataset type of a folder, from what lies in it."""
    if data is None:
        return "bundled"
    folder = Path(data)
    if not folder.is_dir():
        raise no_folder(folder)
    marks = {
        "fashion-mnist": ("FashionMNIST", "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"),
        "cifar10": ("cifar-10-batches-py", "data_batch_1"),
        "cifar100": ("cifar-100-python",),
        "stl10": ("stl10_binary", "train_X.bin"),
        "places365": ("places365_train_standard.txt", "places365_val.txt"),
    }
    for name, files in marks.items():
        if any((folder / file).exists() for file in files):
            return name
    if (folder / "train").exists():  # a folder in ImageNet's layout, a file among those of CIFAR-100
        return "imagenet" if (folder / "train").is_dir() else "cifar100"
    return "folder" if _class_folders(folder) else "images"


def _open(name: str, folder: Path, split: str, settings: DataSettings) -> ImageSet:
    if name in ARRAYS:
        read, splits = ARRAYS[name]
        if split not in splits:
            raise SSLToolError(f"{name} has no split '{split}'; it has {', '.join(splits)}")
        images, labels = read(folder, split)
        if len(images) != len(labels):
            raise SSLToolError(f"{folder} holds {len(images)} {split} images but {len(labels)} labels; copy it again")
        count = int(labels.max()) + 1 if len(labels) else 0
        classes = tuple(map(str, range(count)))
        tensor = torch.from_numpy(np.require(images, requirements="W"))
        return ImageSet(name, split, labels, np.arange(len(labels)), classes, images=tensor)
    if split == "unlabeled":
        raise SSLToolError(f"{name} has no split 'unlabeled'; it has train, val")
    if name == "places365":
        return _places365(folder, split, settings.small)
    if name == "imagenet":
        if not (folder / split).is_dir():
            raise SSLToolError(f"{folder} has no folder '{split}'; an ImageNet-style folder holds train and val")
        reference = folder / "train" if (folder / "train").is_dir() else folder / split
        labelled = _class_folders(reference) and _subfolders(folder / split)
        return _folder(name, folder / split, split, _subfolders(reference) if labelled else None)
    if split != "train":
        raise SSLToolError(
            f"{folder} is one folder of images without a {split} split; lay it out as "
            f"DIR/train and DIR/val, or name the {split} images as DATA"
        )
    return _folder(name, folder, split, _subfolders(folder) if name == "folder" else None)


def _folder(name: str, folder: Path, split: str, classes: Sequence[str] | None) -> ImageSet:
    """All images under ``folder``; their labels are the first folder's place in ``classes``, or -1 without."""
    paths = _image_files(folder)
    if not paths:
        raise SSLToolError(f"no images in {folder}; looked for {', '.join(IMG_EXTENSIONS)}")
    if classes is None:
        return ImageSet(name, split, np.full(len(paths), -1), np.arange(len(paths)), paths=tuple(paths))
    if not classes:
        raise SSLToolError(f"{folder} holds no class folders; --dataset-type images takes unlabelled images")
    number = {c: i for i, c in enumerate(classes)}
    firsts = [os.path.relpath(path, folder).split(os.sep)[0] for path in paths]
    strange = next((first for first in firsts if first not in number), None)
    if strange is not None:
        raise SSLToolError(f"{folder}: '{strange}' is none of the {len(classes)} classes of the training folder")
    labels = np.array([number[first] for first in firsts], np.int64)
    return ImageSet(name, split, labels, np.arange(len(paths)), tuple(classes), paths=tuple(paths))


def _image_files(folder: Path) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(parent, file) for file in sorted(files) if file.lower().endswith(IMG_EXTENSIONS)]
    return found


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _class_folders(folder: Path) -> bool:
    """Whether the subfolders look like classes: two or more, images directly in each, not one image apiece, and none
    beside them. Anything else is a pile of unlabelled images."""

    def images_in(place: Path) -> int:
        return sum(entry.name.lower().endswith(IMG_EXTENSIONS) for entry in os.scandir(place) if entry.is_file())

    names = _subfolders(folder)
    counts = [images_in(folder / name) for name in names]
    empty = next((folder / n for n, count in zip(names, counts, strict=True) if not count), None)
    if empty and sum(map(bool, counts)) >= 2 and not _image_files(empty):
        raise SSLToolError(f"the class folder {empty} holds no images; fill it or remove it")
    return len(counts) >= 2 and all(counts) and max(counts) > 1 and images_in(folder) == 0


def _places365(folder: Path, split: str, small: bool) -> ImageSet:
    """Places365-Standard in torchvision's layout: a list file, and images 256 pixels (small) or up to 512 wide."""
    listing = raw.find(folder, "places365_train_standard.txt" if split == "train" else "places365_val.txt")
    kind = "256" if small else "large"
    base = raw.find(folder, f"data_{kind}_standard" if split == "train" else f"val_{kind}")
    try:
        rows = [line.split() for line in listing.read_text().splitlines() if line.strip()]
        paths = tuple(str(base / row[0].lstrip("/")) for row in rows)
        labels = np.array([int(row[1]) for row in rows], np.int64)
    except (ValueError, IndexError) as error:
        raise raw.broken(listing, error) from error
    return ImageSet("places365", split, labels, np.arange(len(labels)), tuple(map(str, range(365))), paths=paths)


def _download(name: str, settings: DataSettings, split: str) -> None:
    import torchvision.datasets as tv

    root, train = str(settings.data), split == "train"
    fetch = {
        "fashion-mnist": lambda: tv.FashionMNIST(root, train, download=True),
        "cifar10": lambda: tv.CIFAR10(root, train, download=True),
        "cifar100": lambda: tv.CIFAR100(root, train, download=True),
        "stl10": lambda: tv.STL10(root, {"val": "test"}.get(split, split), download=True),
        "places365": lambda: tv.Places365(
            root, "train-standard" if train else "val", small=settings.small, download=True
        ),
    }
    if name not in fetch:
        raise SSLToolError(f"--download cannot fetch {name}; it can {', '.join(fetch)}: name one as --dataset-type")
    try:
        fetch[name]()
    except (OSError, RuntimeError) as error:
        raise SSLToolError(f"--download of {name} into {root} failed: {first_line(error)}") from error


def decode(path: str) -> Image.Image:
    """The image in a file, as RGB.

    Raises:
        SSLToolError: naming the file, if it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SSLToolError(
            f"corrupt image {path} ({first_line(error)}); replace it, or start a run without it by --skip-corrupt"
        ) from error


def _try_decode(path: str) -> Image.Image | SSLToolError:
    try:
        return decode(path)
    except SSLToolError as error:
        return error


def _into_memory(images: ImageSet, skip_corrupt: bool) -> ImageSet:
    """The same images decoded, where all share one size and fit; with ``skip_corrupt``, without the unreadable ones."""
    paths = images.paths or ()
    size = _common_size(paths)
    images = dataclasses.replace(images, size=size)
    fits = size is not None and 3 * size[0] * size[1] * len(paths) <= MEMORY_LIMIT
    if not fits and not skip_corrupt:
        return images
    pixels = torch.empty((len(paths), 3, size[1], size[0]), dtype=torch.uint8) if fits and size else None
    good = np.zeros(len(paths), bool)
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(paths), desc="reading images", disable=is_quiet() or not has_bars(), leave=False) as bar,
    ):
        for start in range(0, len(paths), AT_ONCE):
            for row, image in enumerate(pool.map(_try_decode, paths[start : start + AT_ONCE]), start):
                bar.update()
                if isinstance(image, SSLToolError):
                    if not skip_corrupt:
                        raise image
                    continue
                good[row] = True
                if pixels is not None:
                    pixels[row] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    rows = np.flatnonzero(good)
    skipped = len(paths) - len(rows)
    if pixels is not None:
        images = dataclasses.replace(images, images=pixels, paths=None)
    return dataclasses.replace(images.select(rows) if skipped else images, skipped=skipped)


def _common_size(paths: Sequence[str]) -> tuple[int, int] | None:
    """The (width, height) that all files share, if they do; unreadable files have no say. The search ends early where
    the answer would not matter: large images that do not fit into memory."""
    common: tuple[int, int] | None = None
    for path in paths:
        try:
            with Image.open(path) as image:
                size = image.size
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue
        common = common or size
        large = max(size) > OWN_SIZE_LIMIT and 3 * size[0] * size[1] * len(paths) > MEMORY_LIMIT
        if size != common or large:
            return None
    return common
