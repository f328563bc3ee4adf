"""Files of representations as a bank and as queries: several as one, mapped, and whose rows are whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.files import Record, matching
from ssltool.reprs.representations import Representations
from ssltool.reprs.row_set import RowSet

NETWORK_KEYS = ("checkpoint_hash", "layer", "tokens", "pool", "random", "image_size")
"""What files say of themselves that must be the same of all rows that are compared."""

SPLIT_KEYS = ("dataset", "split")
"""What numbers of images are numbers in."""


@dataclass(frozen=True)
class RepresentationSet:
    """Rows of one or several files, with their labels (N,), their numbers in the dataset (N,), and what the files say
    that they are."""

    name: str
    paths: tuple[Path, ...]
    rows: RowSet
    targets: Tensor
    index: Tensor
    meta: Record

    @classmethod
    def open(cls, name: str) -> RepresentationSet:
        """The file ``name``, the files that match it as a pattern, or where several ranks wrote it, all of theirs.

        Raises:
            SSLToolError: if one cannot be read, or they do not belong together: other networks, datasets or widths, or
                a rank's file is missing.
        """
        found = matching(name)
        paths = tuple(map(Path, found if isinstance(found, list) else [found]))
        files = [Representations.mapped(path) for path in paths]
        for path, file in zip(paths[1:], files[1:], strict=True):
            for key in (*NETWORK_KEYS, *SPLIT_KEYS):
                if file.meta.get(key) != files[0].meta.get(key):
                    raise SSLToolError(
                        f"{paths[0]} and {path} are not parts of one set: {key} is {files[0].meta.get(key)} and "
                        f"{file.meta.get(key)}; name files that are"
                    )
        _refuse_part(name, [file.meta.get("shard") for file in files])
        rows = RowSet([file.representations for file in files])
        targets, index = (torch.cat([getattr(file, key) for file in files]) for key in ("targets", "index"))
        return cls(name, paths, rows, targets, index, files[0].meta)

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, mask: Tensor) -> RepresentationSet:
        """The rows where ``mask`` (N,) is true."""
        rows = self.rows.keep(mask)
        return RepresentationSet(self.name, self.paths, rows, self.targets[mask], self.index[mask], self.meta)


def _refuse_part(name: str, shards: Sequence[Any]) -> None:
    """A rank's file is a part of the set, and the accuracy of a part is another number."""
    if not any(shards):
        return
    world = next(shard[1] for shard in shards if shard)
    missing = [rank for rank in range(world) if [rank, world] not in [list(shard or ()) for shard in shards]]
    if missing:
        raise SSLToolError(
            f"{name} lacks the rows of rank {', '.join(map(str, missing))} of {world}, which wrote files of their own; "
            "name all, as in 'train_reprs_e0.rank*.pt'"
        )


def check_same_network(bank: RepresentationSet, queries: RepresentationSet) -> None:
    """Files that say where they come from must come from one network.

    Raises:
        SSLToolError: naming what differs.
    """
    for key in NETWORK_KEYS:
        if key in bank.meta and key in queries.meta and bank.meta[key] != queries.meta[key]:
            raise SSLToolError(
                f"TRAIN and VAL come from different networks: {key} is {bank.meta[key]} and {queries.meta[key]}; "
                "save both with one checkpoint and --layer"
            )


def share_image_numbers(bank: RepresentationSet, queries: RepresentationSet) -> bool:
    """Whether an image that both have has the same number in both, so that it must not vote on itself: they have a
    file in common, or are of one split of one dataset and their labels agree wherever their numbers do.

    Raises:
        SSLToolError: if that is so, and several files of the bank number their images alike.
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
            f"the files of {bank.name} number their images alike, so no row knows which is itself; save them by "
            "save-reprs, whose index is the image's number in the dataset"
        )
    return same
