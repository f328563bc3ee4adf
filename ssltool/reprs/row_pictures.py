"""The pictures of the images that rows of representations are of, from the folder or the array of the dataset."""

from __future__ import annotations

import functools
from pathlib import Path, PurePosixPath

import numpy as np

from ssltool.config import SPLITS, DataSettings
from ssltool.data import archives, fingerprint
from ssltool.data.cached_images import CACHE
from ssltool.data.decoding import decode
from ssltool.data.detection import can_exist
from ssltool.data.image_files import pixels
from ssltool.data.images import ImageSet, open_dataset
from ssltool.data.layouts import LAYOUTS
from ssltool.data.layouts.imagenet import find_split
from ssltool.data.pixels import DEFAULT_RULES, PixelRules
from ssltool.errors import SSLToolError, found_in
from ssltool.files.schema import boolean, conform, listing, mapping, nested, optional, text
from ssltool.reprs.representation_set import RepresentationSet

PIXELS = mapping(
    optional={
        "value_range": optional(listing(text(100), 2, what="two numbers")),
        "background": optional(text(100)),
        "raw_pixels": optional(boolean()),
    },
    other=nested(),
)
"""How the images became pixels, in the metadata of representations."""


def pixel_rules(saved: RepresentationSet) -> PixelRules:
    """How save-reprs decoded the images of ``saved``.

    Raises:
        SSLToolError: if the metadata are damaged.
    """
    found = conform(saved.meta.get("pixels") or {}, PIXELS, saved.name)
    with found_in(saved.name):
        return PixelRules.of(DataSettings(**{name: found[name] for name in DEFAULT_RULES.settings() if name in found}))


class RowPictures:
    """The pictures of the rows of ``saved``, each read when it is asked for.

    Args:
        saved: representations of save-reprs, whose metadata name the dataset.
        data: the folder of the images; by default the one that save-reprs read.

    Raises:
        SSLToolError: if the metadata do not name the images, or the folder does not exist.
    """

    def __init__(self, saved: RepresentationSet, data: str | None = None) -> None:
        self.saved, meta = saved, saved.meta
        self.layout, self.split = str(meta.get("dataset")), meta.get("split") or "train"
        if self.layout not in LAYOUTS or self.split not in SPLITS:
            raise SSLToolError(f"{saved.name} does not say of which images its rows are; leave --sheet out")
        installed = LAYOUTS[self.layout].folder is not None
        if installed and data is not None:
            raise SSLToolError(f"--data does nothing with {self.layout}, which is installed with ssltool; leave it out")
        run = meta.get("config") or {}  # files of earlier versions name the folder of the checkpoint's run only
        self.folder = data or meta.get("data") or (run.get("data") if "data" not in meta else None)
        if not installed and not isinstance(self.folder, str):
            raise SSLToolError(f"{saved.name} does not name the folder of its images; give it with --data DIR")
        if not installed and not can_exist(str(self.folder)):
            raise SSLToolError(f"no such folder: {self.folder}, of the images; give it with --data DIR")

    def picture(self, row: int) -> np.ndarray:
        """The image of a row without transforms, (H, W, 3) uint8.

        Raises:
            SSLToolError: if its file is missing, cannot be decoded, or is not the image that the row was computed from.
        """
        if self.saved.image_paths is None or self.layout == CACHE or LAYOUTS[self.layout].columns:
            return self._of_array(int(self.saved.index[row]), row)
        name = PurePosixPath(self.saved.image_paths[row])
        path = self._base / name
        if name.is_absolute() or ".." in name.parts:
            raise SSLToolError(f"{self.saved.name}: the path {name} leads out of the folder of the images")
        member = archives.image(path)
        if member is None and not path.is_file():
            raise SSLToolError(f"no such file: {path}; give the folder of the images with --data DIR")
        found = fingerprint.of_files([str(path)] if member is None else member.source[member.row : member.row + 1])
        self._check(row, int(found.digests[0]), str(path))
        return np.asarray(decode(member or str(path), self.rules))

    @functools.cached_property
    def _base(self) -> Path:
        """The folder that the paths are relative to."""
        folder = archives.root(Path(str(self.folder)))
        split = find_split(folder, str(self.split)) if self.layout == "imagenet" else None
        return split or folder

    @functools.cached_property
    def rules(self) -> PixelRules:
        """How save-reprs decoded the files."""
        return pixel_rules(self.saved)

    @functools.cached_property
    def _arrays(self) -> ImageSet:
        layout = LAYOUTS[self.layout]
        rules = {name: value for name, value in self.rules.settings().items() if name in layout.pixel_flags}
        settings = DataSettings(
            data=None if layout.folder is not None else self.folder,
            dataset_type=self.layout,
            image_column=self.saved.meta.get("image_column"),
            skip_corrupt=layout.columns,  # save-reprs may have left some out; a row names its image by the number
            **rules,
        )
        return open_dataset(settings, str(self.split))

    def _of_array(self, number: int, row: int) -> np.ndarray:
        images = self._arrays
        place = int(np.searchsorted(images.index, number))
        if place == len(images) or images.index[place] != number or images.digests is None:
            raise SSLToolError(f"{self.saved.name}: {images.name} {images.split} has no image {number}")
        self._check(row, int(images.digests[place]), f"image {number} of {images.name} {images.split}")
        return pixels(images, place)

    def _check(self, row: int, digest: int, what: str) -> None:
        if self.saved.digests is not None and int(self.saved.digests[row]) != digest:
            raise SSLToolError(
                f"{what} is not the image that {self.saved.name} was computed from; name the folder of its images with "
                "--data, or save the representations again"
            )
