"""Tokens that save-reprs saved, grouped by image, without reading the whole file."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.files.writing import FilePath
from ssltool.models.tokens import KINDS, PATCH
from ssltool.reprs.class_names import Labels, unified
from ssltool.reprs.nonfinite import finite_rows, refuse_nonfinite_rows
from ssltool.reprs.representation_set import parts_of
from ssltool.reprs.representations import Representations
from ssltool.settings import Record


@dataclass(frozen=True)
class ImageTokens:
    """The P tokens of an image.

    Attributes:
        tokens: (P, D), in the precision of the file; a view of the mapped file.
        row, column: (P,), the place in the grid of patches, from 0 at the top left; -1 for a token without a place.
        kind: (P,), positions in ``models.tokens.KINDS``: 0 for the class token, 1 for registers, 2 for patches.
        index: the number of the image in its dataset.
        target: its label, -1 if unlabelled.
        path: its relative path; None if it is not known.
    """

    tokens: Tensor
    row: Tensor
    column: Tensor
    kind: Tensor
    index: int
    target: int
    path: str | None


class TokenSet:
    """The tokens in one or several files, grouped by image. ``read_tokens`` opens it.

    ``len`` is the number of images and ``tokens[i]`` the ``ImageTokens`` of one, in the order of the files; iteration
    yields all. Files of .pt and .npy are memory-mapped, and an image's rows are read when they are used.

    Attributes:
        paths: the files.
        files: what they hold.
        places: the number P of tokens of an image.
        width: their width D.
        grid: the rows and columns of all patches of an image; None if they are not known.
        meta: the metadata of the first file; ``classes`` are those of all files.
    """

    def __init__(self, paths: tuple[Path, ...], files: list[Representations]) -> None:
        self.paths, self.files = paths, files
        self.places, self.width = _places_of(files[0]), files[0].representations.shape[1]
        for path, file in zip(paths, files, strict=True):
            if (_places_of(file), file.representations.shape[1]) != (self.places, self.width):
                raise SSLToolError(
                    f"{paths[0]} and {path} hold {self.places} and {_places_of(file)} tokens of each image, "
                    f"{self.width} and {file.representations.shape[1]} wide; name files of one command"
                )
        grid = files[0].meta.get("grid")
        self.grid: tuple[int, int] | None = None if grid is None else (grid[0], grid[1])
        named = zip(paths, files, strict=True)
        self._targets, classes = unified(
            [Labels.of(str(path), file.targets[:: self.places], file.classes) for path, file in named]
        )
        self.meta: Record = files[0].meta | ({"classes": classes} if classes else {})
        self._defaults = {"row": -1, "column": -1, "kind": _kind_of(files[0])}
        self._ends = list(itertools.accumulate(len(file) // self.places for file in files))

    def __len__(self) -> int:
        return self._ends[-1]

    def __iter__(self) -> Iterator[ImageTokens]:
        return (self[image] for image in range(len(self)))

    def __getitem__(self, image: int) -> ImageTokens:
        """The tokens of the image at the position ``image``, from 0, or from -1 at the end.

        Raises:
            IndexError: if there are fewer images.
            SSLToolError: if a value is NaN or infinite.
        """
        if not -len(self) <= image < len(self):
            raise IndexError(f"image {image} of {len(self)}")
        image %= len(self)
        part = bisect_right(self._ends, image)
        file, at = self.files[part], image - (self._ends[part - 1] if part else 0)
        rows = slice(at * self.places, (at + 1) * self.places)
        tokens = file.representations[rows]
        refuse_nonfinite_rows(finite_rows(tokens), f"{self.paths[part]}, image {int(file.index[rows.start])}")
        places = {name: _or(getattr(file, name), rows, value) for name, value in self._defaults.items()}
        path = None if file.paths is None else file.paths[at]
        index, target = int(file.index[rows.start]), int(self._targets[part][at])
        return ImageTokens(tokens, **places, index=index, target=target, path=path)


def read_tokens(name: FilePath) -> TokenSet:
    """Opens tokens that ``save-reprs --tokens patch``, ``registers`` or ``all``, or ``--pool none``, has saved.

    Args:
        name: a file, a pattern, or the name that several ranks were given. Parquet tables are read into memory.

    Raises:
        SSLToolError: if a file cannot be read or has one row per image, if the rows of an image are not consecutive, or
            if the files differ in network, dataset or tokens.
    """
    return TokenSet(*parts_of(name, _read))


def token_set(paths: Sequence[FilePath], files: list[Representations]) -> TokenSet | None:
    """The tokens in ``files`` that are already open, of one command; None if one of them has a row for each image."""
    if not all(map(_has_tokens, files)):
        return None
    named = tuple(map(Path, paths))
    return TokenSet(named, [_checked(path, file) for path, file in zip(named, files, strict=True)])


def count_tokens(file: Representations) -> Record | None:
    """The numbers of images, of tokens of each and of each kind, and the grid of all patches; None if there is a row
    for each image."""
    if file.row is None:
        return None
    places = _places_of(file)
    kinds = _or(file.kind, slice(0, places), _kind_of(file))
    of_kinds = {name: int((kinds == number).sum()) for number, name in enumerate(KINDS)}
    counts = {name: count for name, count in of_kinds.items() if count}
    return {"images": len(file) // places, "each": places, **counts, "grid": file.meta.get("grid")}


def _kind_of(file: Representations) -> int:
    """The kind of all tokens, of a file without the column ``kind``."""
    return KINDS.index("registers") if file.meta.get("tokens") == "registers" else PATCH


def _has_tokens(file: Representations) -> bool:
    return file.representations.dim() == 2 and (file.row is not None or bool(file.meta.get("places")))


def _read(path: Path) -> Representations:
    return _checked(path, Representations.stored(path))


def _checked(path: Path, file: Representations) -> Representations:
    if not _has_tokens(file):
        raise SSLToolError(f"{path} holds no tokens; save them with save-reprs --tokens patch or all")
    each = file.index.view(-1, _places_of(file))
    if not torch.equal(each, each[:, :1].expand_as(each)):
        raise SSLToolError(f"{path}: the rows of an image are not consecutive; save the file again")
    return file


def _places_of(file: Representations) -> int:
    return int(file.meta.get("places") or 1)


def _or(values: Tensor | None, rows: slice, default: int) -> Tensor:
    """The ``rows`` of a column, or ``default`` for each if the file does not have it."""
    return torch.full((rows.stop - rows.start,), default, dtype=torch.int16) if values is None else values[rows]
