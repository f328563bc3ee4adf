"""Sets of representations that are saved in one or several files, and whether two are of one network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssltool.data.preprocessing import differences
from ssltool.errors import SSLToolError
from ssltool.files.writing import FilePath
from ssltool.reprs.class_names import Labels, unified
from ssltool.reprs.nonfinite import refuse_values
from ssltool.reprs.readers import files_of
from ssltool.reprs.representations import Representations, image_name
from ssltool.reprs.row_set import RowSet
from ssltool.settings import Record
from ssltool.training.ranks import ALONE, Ranks

NETWORK_KEYS = ("checkpoint_hash", "layer", "tokens", "pool", "random", "image_size")
"""Keys of the metadata that identify the network; rows can be compared only if these are equal."""

NETWORK_TITLES = {key: key.replace("_", " ") for key in NETWORK_KEYS}
"""How messages name these keys."""

SPLIT_KEYS = ("dataset", "split")
"""Keys of the metadata that name the dataset and the split. Different folders may have the same names."""


@dataclass(frozen=True)
class RepresentationSet:
    """The representations in one or several files, memory-mapped.

    Attributes:
        name: the file name or pattern that was opened.
        paths: the files.
        rows: N rows.
        targets: (N,) int64, the labels.
        index: (N,) int64, the numbers of the images in their dataset.
        meta: the metadata of the first file; ``classes`` are those of all files.
        fingerprints: for each file, the fingerprint of its dataset; empty if it is not known.
        file_of: (N,) int64, the number of each row's file.
        digests: (N,) int64, a hash of the content of each image; None if they are not known.
        image_paths: the relative path of the image of each row; None if they are not known, as of arrays in one file.
    """

    name: str
    paths: tuple[Path, ...]
    rows: RowSet
    targets: Tensor
    index: Tensor
    meta: Record
    fingerprints: tuple[str, ...]
    file_of: Tensor
    digests: Tensor | None
    image_paths: list[str] | None = None

    @classmethod
    def open(cls, name: str, pool: str | None = None, ranks: Ranks = ALONE) -> RepresentationSet:
        """Opens the file ``name``, the files that match it as a pattern, or the files of all ranks that wrote it.

        Args:
            pool: as in ``Representations.stored``.
            ranks: each of several checks the values of its part of the rows.

        Raises:
            SSLToolError: if a file cannot be read, has values that are not finite, the files differ in network, dataset
                or width, or a rank's file is missing; on all ranks.
        """
        with ranks.same_errors():
            paths, files = parts_of(name, lambda path: Representations.mapped(path, pool))
        refuse_values([file.representations for file in files], [str(path) for path in paths], ranks)
        targets, classes = unified(
            [Labels.of(str(path), file.targets, file.classes) for path, file in zip(paths, files, strict=True)]
        )
        digests = [file.digests for file in files if file.digests is not None]
        image_paths = [file.paths for file in files if file.paths is not None]
        return cls(
            name,
            paths,
            RowSet([file.representations for file in files]),
            torch.cat(targets),
            torch.cat([file.index for file in files]),
            files[0].meta | ({"classes": classes} if classes else {}),
            tuple(file.meta.get("fingerprint") or "" for file in files),
            torch.arange(len(files)).repeat_interleave(torch.tensor([len(file) for file in files])),
            torch.cat(digests) if len(digests) == len(files) else None,
            [path for part in image_paths for path in part] if len(image_paths) == len(files) else None,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def image_name(self, row: int) -> str:
        """The relative path of the image of a row, or its number in the dataset, ``#17``."""
        return image_name(self.image_paths, self.index, row)

    def image_record(self, row: int) -> Record:
        """What results say of the image of a row: ``row``, ``index`` (its number in the dataset), ``path`` and
        ``class``, None if they are not known."""
        label, classes = int(self.targets[row]), self.meta.get("classes") or []
        name = None if label < 0 else classes[label] if label < len(classes) else str(label)
        path = None if self.image_paths is None else self.image_paths[row]
        return {"row": row, "index": int(self.index[row]), "path": path, "class": name}

    @property
    def labels(self) -> Labels:
        """The labels with the names of the classes."""
        return Labels.of(self.name, self.targets, self.meta.get("classes") or [])

    @property
    def why_unlabelled(self) -> str:
        """Why the images have no labels, and what to do; of files without labels."""
        found = self.meta.get("found") or {}
        return found.get("why_unlabelled") or "save representations of labelled images"

    def keep(self, mask: Tensor) -> RepresentationSet:
        """The rows where ``mask`` (N,) is true."""
        columns = {name: getattr(self, name)[mask] for name in ("targets", "index", "file_of")}
        digests = None if self.digests is None else self.digests[mask]
        paths = self.image_paths and [path for path, kept in zip(self.image_paths, mask.tolist(), strict=True) if kept]
        return dataclasses.replace(self, rows=self.rows.keep(mask), digests=digests, image_paths=paths, **columns)


def parts_of(name: FilePath, read: Callable[[Path], Representations]) -> tuple[tuple[Path, ...], list[Representations]]:
    """The file ``name``, the files that match it as a pattern, or the files of all ranks that wrote it: their paths and
    what ``read`` returns for each.

    Raises:
        SSLToolError: if a file cannot be read, the files differ in network or dataset, or a rank's file is missing.
    """
    paths = tuple(map(Path, files_of(name)))
    files = [read(path) for path in paths]
    for path, file in zip(paths[1:], files[1:], strict=True):
        for key in (*NETWORK_KEYS, *SPLIT_KEYS):
            if file.meta.get(key) != files[0].meta.get(key):
                raise SSLToolError(
                    f"{paths[0]} and {path} are not parts of one set: {NETWORK_TITLES.get(key, key)} is "
                    f"{files[0].meta.get(key)} and {file.meta.get(key)}; name the files of one network and split"
                )
        other_transform = differences(files[0].meta, file.meta)
        if other_transform:
            raise SSLToolError(
                f"{paths[0]} and {path} are not parts of one set: their images were transformed in different ways: "
                f"{', '.join(other_transform)}"
            )
    require_all_ranks(str(name), paths, [file.meta for file in files])
    return paths, files


def require_all_ranks(name: str, paths: Sequence[FilePath], metas: Sequence[Record]) -> None:
    """Checks that no rank's file is missing among files with these ``metas``: a metric of part of the rows is a
    different number. ``name`` is how messages call the files, which may be of several networks and splits.

    Raises:
        SSLToolError: names the ranks that are missing, and the file of the first one.
    """
    sets: dict[tuple[str, ...], list[tuple[int, int, FilePath]]] = {}
    for path, meta in zip(paths, metas, strict=True):
        if shard := meta.get("shard"):
            key = tuple(str(meta.get(key)) for key in (*NETWORK_KEYS, *SPLIT_KEYS))
            sets.setdefault((str(shard[1]), *key), []).append((*shard, path))
    for found in sets.values():
        rank, world, path = found[0]
        present = {rank for rank, _, _ in found}
        if len(present) == world:
            continue
        missing = [rank for rank in range(min(world, len(present) + 10)) if rank not in present]
        more = world - len(present) - len(missing)
        ranks = ", ".join(map(str, missing)) + (f" and {more:,} more" if more else "")
        first = file_of_rank(path, rank, world, missing[0])
        every = file_of_rank(path, rank, world, "*") or f"train_reprs_e0.rank*of{world}.pt"
        raise SSLToolError(
            f"{name} lacks the rows of rank {ranks} of {world}{f', {first}' if first else ''}; name the files of all "
            f"ranks, as in '{every}', or run save-reprs again on {world} ranks if a file is missing"
        )


def file_of_rank(path: FilePath, rank: int, world: int, other: int | str) -> Path | None:
    """The file of the rank ``other``, or with ``*`` the pattern of all, by the name of that of ``rank``; None if this
    has another name than ``save-reprs`` gives."""
    own = f".rank{rank}of{world}."
    name = Path(path).name
    return Path(path).with_name(name.replace(own, f".rank{other}of{world}.")) if own in name else None


def transform_notes(*metas: Record) -> list[str]:
    """A note if files with these ``metas`` were made with different transforms of the images."""
    found = differences(*metas)
    return [f"the images were transformed in different ways: {', '.join(found)}"] if found else []


def check_same_network(
    bank: RepresentationSet | Representations,
    queries: RepresentationSet | Representations,
    titles: tuple[str, str] = ("TRAIN", "VAL"),
) -> None:
    """Checks that both, which messages call by their ``titles``, come from the same network, as far as their
    metadata show it.

    Raises:
        SSLToolError: if they differ; the message names the key and both values.
    """
    for key in NETWORK_KEYS:
        if key in bank.meta and key in queries.meta and bank.meta[key] != queries.meta[key]:
            raise SSLToolError(
                f"{' and '.join(titles)} come from different networks: {NETWORK_TITLES[key]} is {bank.meta[key]} and "
                f"{queries.meta[key]}; save both with one checkpoint and --layer"
            )
