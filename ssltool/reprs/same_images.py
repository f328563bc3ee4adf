"""Which rows of two sets of representations are of the same image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.reprs.representation_set import SPLIT_KEYS, RepresentationSet
from ssltool.reprs.representations import Representations


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
        for one in (bank, queries):
            if one.digests is None:
                raise SSLToolError(
                    f"{one.name} has no digests, which --same-images content compares; save it again with save-reprs"
                )
        if bank.digests is not None and queries.digests is not None:
            return ImageIds(bank.digests, queries.digests, "the same content")
    if all((*bank.fingerprints, *queries.fingerprints)):
        if not {*bank.fingerprints} & {*queries.fingerprints}:
            return None
        known = {
            fingerprint: i for i, fingerprint in enumerate(dict.fromkeys(bank.fingerprints + queries.fingerprints))
        }
        ids = numbered([_with_dataset(bank, known), _with_dataset(queries, known)])
        return ImageIds(*ids)
    return _by_names(bank, queries)


def numbered(pairs: Sequence[Tensor]) -> list[Tensor]:
    """A number for each distinct row (2,) of several (n, 2) tensors, (n,) each."""
    _, ids = torch.cat(list(pairs)).unique(dim=0, return_inverse=True)
    return list(ids.split([len(pair) for pair in pairs]))


def repeated_images(files: Sequence[Representations], by: str = "index") -> tuple[int, str]:
    """The number of images that occur several times in ``files``, and how they were told apart, for messages.

    Rows of one image at several places are no repetition. ``by`` is as in ``image_ids``.

    Raises:
        SSLToolError: if a file has no digests, which are to be compared.
    """
    places = files[0].meta.get("places") or 1
    if by == "content":
        digests = [file.digests for file in files]
        if any(one is None for one in digests):
            raise SSLToolError("--same-images content compares digests, and a file has none; save it with save-reprs")
        ids, why = torch.cat([one for one in digests if one is not None]), "the same content"
        return len(ids) - len(ids.unique()), why
    fingerprints = [file.meta.get("fingerprint") or "" for file in files]
    index = torch.cat([file.index for file in files])
    if all(fingerprints):
        known = {fingerprint: i for i, fingerprint in enumerate(dict.fromkeys(fingerprints))}
        of_file = torch.tensor([known[one] for one in fingerprints])
        datasets = of_file.repeat_interleave(torch.tensor([len(file) for file in files]))
        (ids,) = numbered([torch.stack([datasets, index], dim=1)])
        return len(ids) - len(ids.unique()) * places, ""
    origins = {tuple(file.meta.get(key) for key in SPLIT_KEYS) for file in files}
    if len(origins) > 1 or origins.pop()[0] is None:
        return 0, ""
    return len(index) - len(index.unique()) * places, _NO_FINGERPRINT


_NO_FINGERPRINT = "the same number, dataset and split; a file has no fingerprint, which save-reprs now writes"


def _with_dataset(one: RepresentationSet, known: dict[str, int]) -> Tensor:
    """The number of the dataset and that of the image, (N, 2)."""
    datasets = torch.tensor([known[fingerprint] for fingerprint in one.fingerprints])
    return torch.stack([datasets[one.file_of], one.index], dim=1)


def _by_names(bank: RepresentationSet, queries: RepresentationSet) -> ImageIds | None:
    """As files without fingerprints have always been compared."""
    why = ""
    if not {path.resolve() for path in bank.paths} & {path.resolve() for path in queries.paths}:
        if any(bank.meta.get(key) is None or bank.meta.get(key) != queries.meta.get(key) for key in SPLIT_KEYS):
            return None
        numbers, order = bank.index.sort()
        place = torch.searchsorted(numbers, queries.index).clamp(max=len(numbers) - 1)
        other = bank.targets[order][place] != queries.targets
        if bool((other & (numbers[place] == queries.index)).any()):
            return None
        why = _NO_FINGERPRINT
    if len(bank.paths) > 1 and len(bank.index.unique()) < len(bank):
        raise SSLToolError(
            f"several files of {bank.name} contain the same image numbers, so a query cannot be excluded from its own "
            "neighbours; write the files with save-reprs, whose index is unique in the dataset"
        )
    return ImageIds(bank.index, queries.index, why)
