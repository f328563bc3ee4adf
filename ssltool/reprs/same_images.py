"""Which rows of two sets of representations are of the same image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.reprs.representation_set import SPLIT_KEYS, RepresentationSet
from ssltool.reprs.representations import Representations
from ssltool.reprs.row_set import RowSet

NO_FINGERPRINT = "the same number, dataset and split; a file has no fingerprint, which save-reprs now writes"
"""How images are told apart in files of earlier versions, for messages."""

MATCHED_BLOCK = 8192
"""Number of matched rows that are read at a time."""


@dataclass(frozen=True)
class ImageIds:
    """Numbers that two rows share if they are of the same image, for each set: (N,) int64.

    Attributes:
        bank, queries: the numbers.
        why: how the images were told apart, for messages; empty if by the fingerprint.
    """

    bank: Tensor
    queries: Tensor
    why: str = ""

    @property
    def shared(self) -> Tensor:
        """Which queries (N,) are of an image of the bank."""
        return torch.isin(self.queries, self.bank)


def image_ids(bank: RepresentationSet, queries: RepresentationSet, by: str = "index") -> ImageIds | None:
    """The identity of the images of both sets; None if no image is known to be in both.

    Args:
        by: "index": images of one number in datasets of one fingerprint are the same. Where a file has no fingerprint,
            images of one number are the same if the files are, or if dataset and split have the same names and all such
            rows have equal labels. "content": images with the same digest are the same.

    Raises:
        SSLToolError: if a file has no digests, or if several files of the bank contain the same numbers.
    """
    if by == "content":
        return ImageIds(_digests(bank), _digests(queries), "the same content")
    fingerprints = (*bank.fingerprints, *queries.fingerprints)
    if not all(fingerprints):
        return _by_names(bank, queries)
    if not {*bank.fingerprints} & {*queries.fingerprints}:
        return None
    of_bank, of_queries = _numbers(fingerprints).split([len(bank.fingerprints), len(queries.fingerprints)])
    own, others = _ids((of_bank[bank.file_of], of_queries[queries.file_of]), (bank.index, queries.index))
    return ImageIds(own, others)


@dataclass(frozen=True)
class MatchedRows:
    """The rows of one set, and for each the row of the same image in another set.

    Attributes:
        rows: N rows of width d.
        others: rows of width e.
        positions: which of ``others`` (N,) is of the image of each row.
        notes: how the images were told apart, and what was left out.
    """

    rows: RowSet
    others: RowSet
    positions: Tensor
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields blocks (n, d) and (n, e) of the same images."""
        for low in range(0, len(self.rows), MATCHED_BLOCK):
            high = min(low + MATCHED_BLOCK, len(self.rows))
            yield self.rows.block(low, high), self.others.take(self.positions[low:high])


def match_rows(ours: RepresentationSet, theirs: RepresentationSet, by: str = "index") -> MatchedRows:
    """The rows of ``ours`` with those of the same images in ``theirs``, which may hold more images.

    Images are told apart as by ``image_ids``. Files that say nothing of their images are matched row by row, which a
    note says.

    Raises:
        SSLToolError: if ``theirs`` lacks an image of ``ours`` or holds one several times, or a file has no digests.
    """
    unknown = all(not any(one.fingerprints) and one.meta.get(SPLIT_KEYS[0]) is None for one in (ours, theirs))
    if by == "index" and unknown and len(ours) == len(theirs):
        note = f"{ours.name} and {theirs.name} do not name their images; rows of one number are taken as one image"
        return MatchedRows(ours.rows, theirs.rows, torch.arange(len(ours)), (note,))
    ids = image_ids(theirs, ours, by)
    if ids is None:
        raise SSLToolError(
            f"{ours.name} and {theirs.name} are not known to be of the same images; save both with save-reprs from one "
            "dataset and split, or compare by --same-images content"
        )
    numbers, order = ids.bank.sort(stable=True)
    if len(numbers.unique()) < len(numbers):
        raise SSLToolError(f"{theirs.name} holds some images several times; save one row for each image")
    missing = int((~ids.shared).sum())
    if missing:
        raise SSLToolError(
            f"{missing:,} of {len(ours):,} images of {ours.name} are not in {theirs.name}; save the same images of both"
        )
    positions = order[torch.searchsorted(numbers, ids.queries)]
    more = len(theirs) - len(ids.queries.unique())
    notes = ((f"the images were told apart by {ids.why}",) if ids.why else ()) + (
        (f"{more:,} images of {theirs.name} are not in {ours.name} and are left out",) if more else ()
    )
    return MatchedRows(ours.rows, theirs.rows, positions, notes)


def _digests(one: RepresentationSet) -> Tensor:
    if one.digests is None:
        raise SSLToolError(
            f"{one.name} has no digests, which --same-images content compares; save it again with save-reprs"
        )
    return one.digests


def repeated_images(files: Sequence[Representations], by: str = "index") -> tuple[int, str]:
    """The number of images that occur several times in ``files``, and how they were told apart, for messages.

    Rows of one image at several positions are no repetition. ``by`` is as in ``image_ids``.

    Raises:
        SSLToolError: if a file has no digests, which are to be compared.
    """
    if by == "content":
        digests = [file.digests for file in files if file.digests is not None]
        if len(digests) < len(files):
            raise SSLToolError("--same-images content compares digests, and a file has none; save it with save-reprs")
        return _repeated(torch.cat(digests)), "the same content"
    places = files[0].meta.get("places") or 1
    fingerprints = [file.meta.get("fingerprint") or "" for file in files]
    if all(fingerprints):
        datasets = [number.expand(len(file)) for number, file in zip(_numbers(fingerprints), files, strict=True)]
        return _repeated(torch.cat(_ids(datasets, [file.index for file in files])), places), ""
    origins = {tuple(file.meta.get(key) for key in SPLIT_KEYS) for file in files}
    if len(origins) > 1 or origins.pop()[0] is None:
        return 0, ""
    return _repeated(torch.cat([file.index for file in files]), places), NO_FINGERPRINT


def _repeated(ids: Tensor, places: int = 1) -> int:
    return len(ids) - len(ids.unique()) * places


def _numbers(fingerprints: Sequence[str]) -> Tensor:
    """A number for each fingerprint, the same for equal ones."""
    known = {fingerprint: i for i, fingerprint in enumerate(dict.fromkeys(fingerprints))}
    return torch.tensor([known[fingerprint] for fingerprint in fingerprints])


def _ids(datasets: Sequence[Tensor], index: Sequence[Tensor]) -> list[Tensor]:
    """A number for each image, of the number of its dataset and its own in it, for several sets of rows."""
    pairs = [torch.stack(pair, dim=1) for pair in zip(datasets, index, strict=True)]
    _, ids = torch.cat(pairs).unique(dim=0, return_inverse=True)
    return list(ids.split([len(pair) for pair in pairs]))


def _by_names(bank: RepresentationSet, queries: RepresentationSet) -> ImageIds | None:
    """As files without fingerprints have always been compared."""
    why = ""
    if not set(map(os.path.realpath, bank.paths)) & set(map(os.path.realpath, queries.paths)):
        if any(bank.meta.get(key) is None or bank.meta.get(key) != queries.meta.get(key) for key in SPLIT_KEYS):
            return None
        numbers, order = bank.index.sort()
        place = torch.searchsorted(numbers, queries.index).clamp(max=len(numbers) - 1)
        other = bank.targets[order][place] != queries.targets
        if bool((other & (numbers[place] == queries.index)).any()):
            return None
        why = NO_FINGERPRINT
    if len(bank.paths) > 1 and len(bank.index.unique()) < len(bank):
        raise SSLToolError(
            f"several files of {bank.name} contain the same image numbers, so a query cannot be excluded from its own "
            "neighbours; write the files with save-reprs, whose index is unique in the dataset"
        )
    return ImageIds(bank.index, queries.index, why)
