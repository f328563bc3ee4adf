"""The file format of representations, and files of other programs that hold the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.files.label_values import checked, read_index, read_targets
from ssltool.files.misfit import name_keys
from ssltool.files.schema import entry, listing, optional, tensor, text
from ssltool.files.stored import Entries, Stored, format_of, refuse_objects
from ssltool.files.writing import FilePath
from ssltool.reprs.class_names import Labels, unified
from ssltool.reprs.meta_schema import META
from ssltool.reprs.nonfinite import refuse_values
from ssltool.reprs.positions import Layout, arranged
from ssltool.reprs.readers import ROWS, TARGETS, read_entries
from ssltool.settings import Record
from ssltool.training.progress import info

PLACE = ("row", "column")
PLACES = (*PLACE, "kind")
"""Keys of the place of each row in its image, and of the kind of its token."""

ROWS_REMEDY = "save a dense float tensor (N, D), a row for each image"


@dataclass
class Representations(Stored):
    """Representations of images with their labels.

    Attributes:
        representations: (N, D) float32 or bfloat16, one row per image, or (N, Q, D) for Q views of each image. If
            ``meta["places"]`` is P, each image has P consecutive rows.
        targets: (N,) int64, the labels; -1 if unlabelled.
        index: (N,) int64, the numbers of the images in their dataset.
        meta: the checkpoint, network and dataset that the rows come from.
        paths: the relative path of each image; None if they are not known.
        digests: (images,) int64, a hash of the content of each image; None if they are not known.
        row, column: (N,) integers, the place of each row in the grid of patches; -1 for a row without a place. None if
            each row is of a whole image.
        kind: (N,) integers, the kind of each token as a position in ``models.tokens.KINDS``; None if all are of one.
    """

    FORMAT: ClassVar[str] = "ssltool/representations/1"

    representations: Tensor = entry(tensor(..., kinds="floating"))
    targets: Tensor = entry(tensor("rows", kinds="integer"))
    index: Tensor = entry(tensor("rows", kinds="integer"))
    meta: Record = entry(META, default_factory=dict)
    paths: list[str] | None = entry(optional(listing(text(), what="a list of paths")), default=None)
    digests: Tensor | None = entry(optional(tensor("images", kinds="integer")), default=None)
    row: Tensor | None = entry(optional(tensor("rows", kinds="integer")), default=None)
    column: Tensor | None = entry(optional(tensor("rows", kinds="integer")), default=None)
    kind: Tensor | None = entry(optional(tensor("rows", kinds="integer")), default=None)

    def __len__(self) -> int:
        return len(self.representations)

    @property
    def classes(self) -> list[str]:
        """The names of the classes 0, 1, 2, ...; empty if they are not known."""
        return self.meta.get("classes") or []

    @classmethod
    def load(cls, path_or_paths: FilePath | Sequence[FilePath], pool: str | None = None) -> Representations:
        """Reads one file (memory-mapped), or several and concatenates them in the order given.

        Labels are numbered as in the first file, by the names of the classes.

        Args:
            path_or_paths: ``.pt``, ``.npy``, ``.npz`` or parquet; also of other programs, without metadata. Without
                ``index``, the images are numbered from 0.
            pool: as in ``stored``.

        Raises:
            SSLToolError: if a file is unreadable, holds no representations or several rows per image, has different
                numbers of rows and targets, or NaN or infinite values, or if the files have different widths.
        """
        if isinstance(path_or_paths, (str, os.PathLike)):
            return cls._load_one(path_or_paths, pool)
        return cls.concatenated(path_or_paths, [cls._load_one(path, pool) for path in path_or_paths])

    @classmethod
    def concatenated(cls, paths: Sequence[FilePath], parts: Sequence[Representations]) -> Representations:
        """The rows of all ``parts``, which were read from ``paths``, as ``load`` returns them.

        Raises:
            SSLToolError: if there is none, or their widths differ.
        """
        if not parts:
            raise SSLToolError("no representation files were given; name at least one")
        widths = [part.representations.shape[1] for part in parts]
        if len(set(widths)) > 1:
            found = ", ".join(f"{path}: {width}" for path, width in zip(paths, widths, strict=True))
            raise SSLToolError(f"representations of different widths cannot be concatenated ({found})")
        named = zip(paths, parts, strict=True)
        targets, classes = unified([Labels.of(str(path), part.targets, part.classes) for path, part in named])
        image_paths = [part.paths for part in parts if part.paths is not None]
        digests = [part.digests for part in parts if part.digests is not None]
        return cls(
            torch.cat([part.representations for part in parts]),
            torch.cat(targets),
            torch.cat([part.index for part in parts]),
            parts[0].meta | ({"classes": classes} if classes else {}),
            [path for part in image_paths for path in part] if len(image_paths) == len(parts) else None,
            torch.cat(digests) if len(digests) == len(parts) else None,
            **{name: _concatenated([getattr(part, name) for part in parts]) for name in PLACES},
        )

    @classmethod
    def _load_one(cls, path: FilePath, pool: str | None) -> Representations:
        stored = cls.mapped(path, pool)
        refuse_values([stored.representations], [str(path)])
        stored.representations = stored.representations.float()
        return stored

    @classmethod
    def mapped(cls, path: FilePath, pool: str | None = None) -> Representations:
        """Reads one file with one row per image, memory-mapped, in its own precision, without checking the values;
        else raises as ``load``."""
        stored = cls.stored(path, pool)
        if stored.representations.dim() == 3:
            views = stored.representations.shape[1]
            raise SSLToolError(
                f"{path} holds {views} views of each image; save one row per image, without --views, or average them "
                "with --pool mean"
            )
        if places := stored.meta.get("places"):
            raise SSLToolError(
                f"{path} holds {places} positions of each image; save one row per image, their mean, or average them "
                "with --pool mean"
            )
        return stored

    @classmethod
    def stored(cls, path: FilePath, pool: str | None = None) -> Representations:
        """Reads one file, memory-mapped, in its own precision, (N, D) or (N, Q, D), without checking the values.

        Args:
            path: ``.pt``, ``.npy``, ``.npz`` or parquet.
            pool: how to read several rows of an image: their ``mean``, or ``none``, a row for each position.

        Raises:
            SSLToolError: if it is unreadable, holds no representations, values of another type, or has different
                numbers of rows and targets.
        """
        return cls.of(read_entries(path), path, pool)

    @classmethod
    def of(cls, contents: Entries, path: FilePath, pool: str | None = None) -> Representations:
        """The representations among the ``contents`` of the file ``path``; the rest is as in ``stored``."""
        ours = contents.get("format") == cls.FORMAT
        if ours:
            refuse_objects(contents, path)
        key, labels = _keys(contents, path)
        rows = checked(contents[key], tensor(..., kinds="floating"), path, key, ROWS_REMEDY)
        meta = checked(contents.get("meta", {}), META, path, "meta", "regenerate the file")
        targets = index = None
        if labels in contents:
            targets, classes = read_targets(contents[labels], path, meta.get("classes") or [])
            meta = meta | ({"classes": classes} if classes else {})
        if "index" in contents:
            index = read_index(contents["index"], path)
        found = arranged(rows, Layout(path, ours, meta, pool), targets, index)
        n = len(found.rows)
        targets = torch.full((n,), -1) if found.targets is None else found.targets
        index = torch.arange(n) if found.index is None else found.index
        if len(targets) != n or len(index) != n:
            raise SSLToolError(
                f"{path}: {n} representations, {len(targets)} targets and {len(index)} indices; save one of each "
                "for every row"
            )
        images = n // (found.meta.get("places") or 1)
        of_images = {"paths": listing(text(), images, what="a list"), "digests": tensor(images, kinds="integer")}
        paths, digests = (
            checked(contents.get(name), optional(check), path, name, "regenerate the file")
            for name, check in of_images.items()
        )
        # A mean over positions has no place, and other programs' columns may have these names.
        keeps_places = ours and found.meta.get("places") == meta.get("places") and found.rows.dim() == 2
        places = {
            name: checked(contents.get(name), optional(tensor(n, kinds="integer")), path, name, "regenerate the file")
            for name in (PLACES if keeps_places else ())
        }
        return cls(found.rows, targets, index, found.meta, paths, digests, **places)


def image_name(paths: Sequence[str] | None, index: Tensor, row: int) -> str:
    """How messages and tables name the image of a row: its relative path, else ``#`` and its number in the dataset."""
    return f"#{int(index[row])}" if paths is None else paths[row]


def _concatenated(columns: Sequence[Tensor | None]) -> Tensor | None:
    """The ``columns`` of several files as one; None if a file has none."""
    known = [column for column in columns if column is not None]
    return torch.cat(known) if len(known) == len(columns) else None


def holds_rows(contents: Entries) -> bool:
    """Whether the entries of a file are those of representations."""
    return "representations" in contents or contents.get("format") == Representations.FORMAT


def _keys(contents: Entries, path: FilePath) -> tuple[str, str]:
    """The keys of the rows and of the labels; a note names other programs' keys.

    Raises:
        SSLToolError: if there are no rows, or several keys that may hold them.
    """
    found = [name for name in ROWS if name in contents]
    named = [name for name in TARGETS if name in contents]
    if "representations" in found:
        found = found[:1]
    if format_of(contents).startswith("ssltool/") and contents["format"] != Representations.FORMAT:
        found = []
    if not found:
        matrices = [name for name, value in contents.items() if isinstance(value, Tensor) and value.dim() == 2]
        hint = "; ssltool save-reprs writes those of a checkpoint"
        if len(matrices) == 1:
            hint = f"; save '{matrices[0]}' as 'representations'"
        raise SSLToolError(f"{path} holds no representations; its keys are {name_keys(contents)}{hint}")
    labels = "targets" if "targets" in named or not named else named[0]
    if len(found) > 1 or (labels != "targets" and len(named) > 1):
        several = found if len(found) > 1 else named
        raise SSLToolError(
            f"{path} has {' and '.join(several)}; save the rows as 'representations' and the labels as 'targets'"
        )
    read = {"representations": found[0], "targets": labels}
    if renamed := [f"'{name}' is read as {own}" for own, name in read.items() if own != name]:
        info(f"note: {path}: {', '.join(renamed)}")
    return found[0], labels
