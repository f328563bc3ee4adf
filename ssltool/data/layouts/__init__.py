"""The registry of dataset layouts: a name, the function that reads the images, and how a folder is recognised.

A layout's module is imported when the layout is used. A plug-in adds a layout with one line::

    LAYOUTS.add("birds", DatasetLayout(read_birds, files=("birds.csv",)))

Only the standard library is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ssltool.data import bundled
from ssltool.registry import Registry

if TYPE_CHECKING:
    import numpy as np

    from ssltool.config import DataSettings
    from ssltool.data.images import ImageSet

    Images: TypeAlias = np.ndarray | Sequence[str | Path]
    Labels: TypeAlias = np.ndarray | Sequence[int]
    Read: TypeAlias = ImageSet | tuple[Images, Labels]


PIXEL_FLAGS = ("value_range", "background", "raw_pixels", "max_pixels")
"""The settings that determine how image files become pixels."""


@dataclass(frozen=True)
class DatasetLayout:
    """How the files of a dataset are arranged in a folder.

    A function is given as itself or as ``"module:function"``. Relative paths are relative to the dataset's folder.

    Args:
        target: the reader, ``read(folder, split, settings)``. It returns ``(images, labels)``: the images are a uint8
            array (N, C, H, W) with C 1 or 3, or the N paths of image files; the labels are N integers, -1 for an
            unlabelled image. It may return an ``ImageSet`` instead, to name the classes.
        splits: the splits that it may have, of "train", "val", "test" and "unlabeled".
        files: relative paths, any one of which identifies a folder of this layout.
        recogniser: ``recogniser(folder)``, whether the folder has this layout. It is called if the ``files`` of no
            layout exist in the folder. A folder that no layout recognises is read as ``images``.
        generic: the recogniser accepts folders of many datasets; it is called after those of the other layouts.
        download: ``download(folder, split, settings)``, which downloads the dataset into the folder.
        aliases: other names of the layout, and the split that each implies or None.
        small: ``--small`` selects a version of the dataset.
        class_folders: the labels come from folders, so that ``--unlabelled`` can name some of them.
        single_file: DATA may be a file.
        archives: DATA may be a zip or tar archive of such a folder.
        named: ``named(data)``, whether DATA, which is no file or folder, names such a dataset.
        has_split: ``has_split(folder, split)``, whether a split that it may have is there; by default all are.
        columns: ``--image-column`` and ``--label-column`` have an effect.
        pixel_flags: those of ``PIXEL_FLAGS`` that can have an effect; none if the reader returns arrays.
        folder: the folder of the images, if they are installed with a package; the layout then takes no DATA.
    """

    target: str | Callable[[Path, str, DataSettings], Read]
    splits: tuple[str, ...] = ("train", "val")
    files: tuple[str, ...] = ()
    recogniser: str | Callable[[Path], bool] | None = None
    generic: bool = False
    download: str | Callable[[Path, str, DataSettings], object] | None = None
    aliases: Mapping[str, str | None] = field(default_factory=dict)
    small: bool = False
    class_folders: bool = False
    single_file: bool = False
    archives: bool = False
    named: str | Callable[[str], bool] | None = None
    has_split: str | Callable[[Path, str], bool] | None = None
    columns: bool = False
    pixel_flags: tuple[str, ...] = PIXEL_FLAGS
    folder: Path | None = None


LAYOUTS: Registry[DatasetLayout] = Registry(
    "dataset type",
    __name__,
    {
        "bundled": DatasetLayout(".fashion_mnist:read", folder=bundled.FOLDER, pixel_flags=()),
        "imagenet": DatasetLayout(
            ".imagenet:read",
            splits=("train", "val", "test"),
            recogniser=".imagenet:recognise",
            generic=True,
            aliases={"imagenet_train": "train"},
            class_folders=True,
            archives=True,
            has_split=".imagenet:has_split",
        ),
        "folder": DatasetLayout(
            ".class_folders:read",
            splits=("train",),
            recogniser=".class_folders:has_class_folders",
            generic=True,
            class_folders=True,
            archives=True,
        ),
        "images": DatasetLayout(".unlabelled:read", splits=("train",), archives=True),
        "arrays": DatasetLayout(
            ".arrays:read",
            splits=("train", "val", "test"),
            recogniser=".arrays:recognise",
            single_file=True,
            pixel_flags=("value_range", "background"),
            has_split=".arrays:has_split",
        ),
        "table": DatasetLayout(
            ".table:read",
            splits=("train", "val", "test"),
            recogniser=".table:recognise",
            generic=True,
            single_file=True,
            has_split=".table:has_split",
            columns=True,
        ),
        "webdataset": DatasetLayout(
            ".webdataset:read",
            splits=("train", "val", "test"),
            recogniser=".webdataset:recognise",
            single_file=True,
            named=".webdataset:named",
            has_split=".webdataset:has_split",
            columns=True,
        ),
        "hf": DatasetLayout(
            ".hf:read",
            splits=("train", "val", "test"),
            files=("dataset_dict.json", "dataset_info.json"),
            recogniser=".hf:recognise",
            generic=True,
            single_file=True,
            named=".hf:named",
            has_split=".hf:has_split",
            columns=True,
        ),
        "cache": DatasetLayout(
            ".cached:read",
            splits=("train", "val", "test", "unlabeled"),
            files=("train.cache", "val.cache", "test.cache", "unlabeled.cache"),
            has_split=".cached:has_split",
            pixel_flags=(),
        ),
        "fashion-mnist": DatasetLayout(
            ".fashion_mnist:read",
            files=(
                *("FashionMNIST", "MNIST/raw"),
                *(f"train-images{mark}idx3-ubyte{end}" for mark in "-." for end in ("", ".gz", ".xz")),
            ),
            download=".fashion_mnist:download",
            pixel_flags=(),
        ),
        "cifar10": DatasetLayout(
            ".cifar:read_cifar10",
            files=("cifar-10-batches-py", "data_batch_1"),
            download=".cifar:download_cifar10",
            pixel_flags=(),
        ),
        "cifar100": DatasetLayout(
            ".cifar:read_cifar100",
            files=("cifar-100-python",),
            recogniser=".cifar:recognise_cifar100",
            download=".cifar:download_cifar100",
            pixel_flags=(),
        ),
        "stl10": DatasetLayout(
            ".stl10:read",
            splits=("train", "val", "unlabeled"),
            files=("stl10_binary", "train_X.bin"),
            download=".stl10:download",
            pixel_flags=(),
        ),
        "places365": DatasetLayout(
            ".places365:read",
            files=("places365_train_standard.txt", "places365_val.txt"),
            download=".places365:download",
            aliases={"places": None, "places_simsiam_train": "train", "places_train": "train", "places_val": "val"},
            small=True,
        ),
    },
)
