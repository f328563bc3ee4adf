"""Sets of representations that are saved in one or several files, and how two such sets are related."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.files import matching
from ssltool.reprs.representations import Representations
from ssltool.reprs.row_set import RowSet
from ssltool.settings import Record

NETWORK_KEYS = ("checkpoint_hash", "layer", "tokens", "pool", "random", "image_size")
"""Keys of the metadata that identify the network; rows can be compared only if these are equal."""

SPLIT_KEYS = ("dataset", "split")
"""Keys of the metadata that identify the images; an image's number is its position in this split."""


@dataclass(frozen=True)
class RepresentationSet:
    """The representations in one or several files, memory-mapped.

    Attributes:
        name: the file name or pattern that was opened.
        paths: the files.
        rows: N rows.
        targets: (N,) int64, the labels.
        index: (N,) int64, the numbers of the images in their dataset.
        meta: the metadata of the first file.
    """

    name: str
    paths: tuple[Path, ...]
    rows: RowSet
    targets: Tensor
    index: Tensor
    meta: Record

    @classmethod
    def open(cls, name: str) -> RepresentationSet:
        """Opens the file ``name``, the files that match it as a pattern, or the files of all ranks that wrote it.

        Raises:
            SSLToolError: if a file cannot be read, the files differ in network, dataset or width, or a rank's file is
                missing.
        """
        found = matching(name)
        paths = tuple(map(Path, found if isinstance(found, list) else [found]))
        files = [Representations.mapped(path) for path in paths]
        for path, file in zip(paths[1:], files[1:], strict=True):
            for key in (*NETWORK_KEYS, *SPLIT_KEYS):
                if file.meta.get(key) != files[0].meta.get(key):
                    raise SSLToolError(
                        f"{paths[0]} and {path} are not parts of one set: {key} is {files[0].meta.get(key)} and "
                        f"{file.meta.get(key)}; name the files of one network and split"
                    )
        _check_all_ranks(name, [file.meta.get("shard") for file in files])
        rows = RowSet([file.representations for file in files])
        targets, index = (torch.cat([getattr(file, key) for file in files]) for key in ("targets", "index"))
        return cls(name, paths, rows, targets, index, files[0].meta)

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, mask: Tensor) -> RepresentationSet:
        """The rows where ``mask`` (N,) is true."""
        rows = self.rows.keep(mask)
        return RepresentationSet(self.name, self.paths, rows, self.targets[mask], self.index[mask], self.meta)


def _check_all_ranks(name: str, shards: Sequence[Sequence[int] | None]) -> None:
    """Raises ``SSLToolError`` if the file of a rank is missing: a metric of part of the rows is a different number."""
    if not any(shards):
        return
    world = next(shard[1] for shard in shards if shard)
    missing = [rank for rank in range(world) if [rank, world] not in [list(shard or ()) for shard in shards]]
    if missing:
        raise SSLToolError(
            f"{name} lacks the rows of rank {', '.join(map(str, missing))} of {world}, which are in other files; "
            "name the files of all ranks, as in 'train_reprs_e0.rank*.pt'"
        )


def check_same_network(bank: RepresentationSet, queries: RepresentationSet) -> None:
    """Checks that both sets come from the same network, as far as their metadata show it.

    Raises:
        SSLToolError: if they differ; the message names the key and both values.
    """
    for key in NETWORK_KEYS:
        if key in bank.meta and key in queries.meta and bank.meta[key] != queries.meta[key]:
            raise SSLToolError(
                f"TRAIN and VAL come from different networks: {key} is {bank.meta[key]} and {queries.meta[key]}; "
                "save both with one checkpoint and --layer"
            )


def share_image_numbers(bank: RepresentationSet, queries: RepresentationSet) -> bool:
    """Whether equal numbers in ``index`` mean the same image in both sets, so that a query can be excluded from its
    own neighbours.

    This holds if they have a file in common, or if they come from the same split and all rows with equal numbers have
    equal labels.

    Raises:
        SSLToolError: if this holds, but several files of the bank contain the same numbers.
    """
    if {path.resolve() for path in bank.paths} & {path.resolve() for path in queries.paths}:
        same = True
    elif any(bank.meta.get(key) is None or bank.meta.get(key) != queries.meta.get(key) for key in SPLIT_KEYS):
        same = False
    else:
        numbers, order = bank.index.sort()
        place = torch.searchsorted(numbers, queries.index).clamp(max=len(numbers) - 1)
        other = bank.targets[order][place] != queries.targets
        same = not bool((other & (numbers[place] == queries.index)).any())
    if same and len(bank.paths) > 1 and len(bank.index.unique()) < len(bank):
        raise SSLToolError(
            f"several files of {bank.name} contain the same image numbers, so a query cannot be excluded from its own "
            "neighbours; write the files with save-reprs, whose index is unique in the dataset"
        )
    return same
