"""The files that ``collapse`` measures, as sets of rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from glob import has_magic
from pathlib import Path

import torch
from torch import Tensor

from ssltool.diagnosis.row_blocks import Rows
from ssltool.reprs.class_names import Labels, unified
from ssltool.reprs.readers import files_of, stem_of
from ssltool.reprs.representation_set import check_same_network, file_of_rank, require_all_ranks, transform_notes
from ssltool.reprs.representations import Representations, image_name
from ssltool.reprs.same_images import repeated_images
from ssltool.settings import Record
from ssltool.training.ranks import Ranks


@dataclasses.dataclass(frozen=True)
class InputFiles:
    """A set of rows: the representations in one file, those of all ranks, or with ``--merge`` in several."""

    name: str
    """How messages call the set: the path as it was given."""
    prefix: Path
    """The path of the set without a suffix, after which files are named."""
    paths: tuple[str, ...]
    files: list[Representations]

    @classmethod
    def open(cls, paths: Sequence[str], pool: str | None, *, merge: bool) -> list[InputFiles]:
        """A set of rows for each of ``paths``, or with ``merge`` one of all. A path that several ranks wrote stands for
        their files.

        Raises:
            SSLToolError: if a file cannot be read, or of those that are read as one, a rank's file is missing, or two
                come from different networks.
        """
        parts = [[path] if has_magic(path) else files_of(path) for path in paths]
        if merge:
            name, suffix = f"{paths[0]} and {len(paths) - 1} more", "_merged"
            return [cls._read(name, paths[0], suffix, [file for files in parts for file in files], pool)]
        return [cls._read(path, path, "", files, pool) for path, files in zip(paths, parts, strict=True)]

    @classmethod
    def _read(cls, name: str, first: str, suffix: str, paths: Sequence[str], pool: str | None) -> InputFiles:
        files = [Representations.stored(path, pool) for path in paths]
        for path, file in zip(paths[1:], files[1:], strict=True):
            check_same_network(files[0], file, (paths[0], path))
        if len(files) > 1:
            require_all_ranks(name, paths, [file.meta for file in files])
        return cls(name, Path(first).with_name(stem_of(first) + suffix), tuple(paths), files)

    @property
    def meta(self) -> Record:
        """The metadata of the first file."""
        return self.files[0].meta

    def rows(self, *, labels: bool, skip_nonfinite: bool, device: torch.device, ranks: Ranks) -> Rows:
        """The rows of all files, with their ``labels`` or without."""
        return Rows(
            [file.representations for file in self.files],
            labels=self._labels() if labels else None,
            skip_nonfinite=skip_nonfinite,
            hint="--skip-nonfinite leaves them out",
            device=device,
            name=self.name,
            image_name=self._image_name,
            ranks=ranks,
        )

    def notes(self, same_images: str) -> list[str]:
        """What may mislead in the files; ``same_images`` is how repeated images are told."""
        return [
            *self._repeated_images(same_images),
            *self._same_image(),
            *self._one_rank(),
            *transform_notes(*(file.meta for file in self.files)),
        ]

    def _image_name(self, number: int) -> str:
        """The name of the image of a row, by its number among those of all files."""
        for file in self.files:
            if number < len(file):
                break
            number -= len(file)
        places = file.meta.get("places") or 1
        return image_name(file.paths, file.index[::places], number // places)

    def _labels(self) -> list[Tensor]:
        """The labels of each file, one for each image, in the numbers of the first file."""
        named = zip(self.paths, self.files, strict=True)
        return unified([Labels.of(path, file.targets, file.classes) for path, file in named])[0]

    def _repeated_images(self, by: str) -> list[str]:
        """A note on repeated images in merged files: a distributed sampler pads its shards with them."""
        repeated, why = repeated_images(self.files, by) if len(self.files) > 1 else (0, "")
        return [f"repeated images in the merged files{why and f' ({why})'}: {repeated:,}"] if repeated else []

    def _one_rank(self) -> list[str]:
        """A note on a file that one of several ranks wrote, and that is measured alone."""
        shard = self.meta.get("shard")
        if len(self.files) > 1 or not shard:
            return []
        rank, world = shard
        every = file_of_rank(self.paths[0], rank, world, "*")
        return [f"these are the rows of rank {rank} of {world} only; --merge {every or 'FILE...'} measures all"]

    def _same_image(self) -> list[str]:
        """A note if all images have the same content, by their digests, which files of earlier versions lack."""
        known = [file.digests for file in self.files if file.digests is not None]
        if len(known) < len(self.files):
            return []
        column = torch.cat(known)
        if len(column) < 2 or len(column.unique()) > 1:
            return []
        return [f"all {len(column):,} images are the same: equal rows show nothing about the network"]
