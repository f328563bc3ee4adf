"""Which tokens of two sets are of the same place of the same image."""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.reprs.representation_set import RepresentationSet
from ssltool.reprs.row_set import RowSet
from ssltool.reprs.same_images import MatchedRows, match_rows
from ssltool.reprs.token_set import TokenSet


def match_tokens(ours: TokenSet, theirs: TokenSet, by: str = "index") -> tuple[MatchedRows, Tensor]:
    """All tokens of ``ours`` with those of ``theirs``, and the position in ``theirs`` of each image (N,) of ``ours``.

    Images are told apart as by ``same_images.match_rows``; the tokens of an image are matched in their order.

    Raises:
        SSLToolError: as ``match_rows``, or if both hold different numbers of tokens of each image.
    """
    if ours.places != theirs.places:
        raise SSLToolError(
            f"{ours.paths[0]} holds {ours.places} tokens of each image and {theirs.paths[0]} {theirs.places}; save "
            "both with equal --tokens and --image-size"
        )
    matched = match_rows(images_of(ours), images_of(theirs), by)
    places = torch.arange(ours.places)
    positions = (matched.positions[:, None] * ours.places + places).flatten()
    return MatchedRows(_all_tokens(ours), _all_tokens(theirs), positions, matched.notes), matched.positions


def _all_tokens(tokens: TokenSet) -> RowSet:
    return RowSet([file.representations for file in tokens.files])


def images_of(tokens: TokenSet) -> RepresentationSet:
    """The first token of each image, as a row for the image; tokens are not read."""
    files, each = tokens.files, tokens.places
    paths = [file.paths for file in files if file.paths is not None]
    digests = [file.digests for file in files if file.digests is not None]
    return RepresentationSet(
        str(tokens.paths[0]),
        tokens.paths,
        RowSet([file.representations[::each] for file in files]),
        torch.cat([file.targets[::each] for file in files]),
        torch.cat([file.index[::each] for file in files]),
        tokens.meta,
        tuple(file.meta.get("fingerprint") or "" for file in files),
        torch.arange(len(files)).repeat_interleave(torch.tensor([len(file) // each for file in files])),
        torch.cat(digests) if len(digests) == len(files) else None,
        [path for part in paths for path in part] if len(paths) == len(files) else None,
    )
