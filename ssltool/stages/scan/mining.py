"""The first step: which images are an image's neighbours, and with which of them a step compares it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ssltool import seeds
from ssltool.data.images import ImageSet
from ssltool.errors import SSLToolError
from ssltool.files import FilePath
from ssltool.reprs.neighbours.file import Neighbours
from ssltool.reprs.neighbours.search import neighbours
from ssltool.reprs.representations import Representations


def mine(rows: Representations, k: int, device: torch.device) -> Neighbours:
    """The ``k`` nearest others of each row by cosine, which is the inner product of the paper, whose pretext features
    have length 1. ``meta["accuracy"]`` is the share of neighbours that have their image's label, None without labels.

    Raises:
        SSLToolError: if there are fewer other rows.
    """
    if k >= len(rows):
        raise SSLToolError(f"--neighbours {k}: each of {len(rows)} images has {len(rows) - 1} others; ask for fewer")
    features, index = rows.representations, rows.index
    similarity, places = neighbours(features, features, k=k, skip=(index, index), device=device)
    valid = places >= 0  # not where a number occurs twice
    labels = rows.targets[places.clamp(min=0)]
    compared = valid & (labels >= 0) & (rows.targets[:, None] >= 0)
    agree = (labels == rows.targets[:, None])[compared]
    own = {name: rows.meta.get(name) for name in ("checkpoint_hash", "layer", "dataset", "split")}
    accuracy = float(agree.double().mean()) if len(agree) else None
    return Neighbours(
        places,
        -similarity,
        index,
        torch.where(valid, index[places.clamp(min=0)], -1),
        own | {"metric": "cos", "k": k, "accuracy": accuracy},
    )


@dataclass(frozen=True)
class Table:
    """The neighbours of N images, as places among them: ``places`` (N, k), of which the first ``counts`` (N,), at least
    one, are meant. ``lonely`` images had none and are their own."""

    places: np.ndarray
    counts: np.ndarray
    lonely: int

    @classmethod
    def of(cls, found: Neighbours, images: ImageSet, path: FilePath) -> Table:
        """The neighbours in a file, among ``images``, by the images' numbers; others are left out.

        Raises:
            SSLToolError: if the file is of another dataset, or lacks an image.
        """
        dataset = found.meta.get("dataset")
        if dataset not in (None, images.name):
            raise SSLToolError(f"{path} holds neighbours among images of {dataset}, but these are of {images.name}")
        own = _places(images.index, found.index.numpy())
        if (own < 0).any():
            missing = images.index[own < 0]
            raise SSLToolError(f"{path} lacks {len(missing)} of the {len(own)} images, the first is {missing[0]}")
        places = _places(found.bank_index.numpy()[own], images.index)
        places = np.take_along_axis(places, (places < 0).argsort(axis=1, kind="stable"), axis=1)
        counts = (places >= 0).sum(axis=1)
        lonely = np.flatnonzero(counts == 0)
        places[lonely, 0], counts[lonely] = lonely, 1
        return cls(places, counts, len(lonely))

    def draw(self, anchors: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """A neighbour of each of ``anchors`` (n,), at random; a function of the seed and the epoch."""
        random = np.random.RandomState(seeds.derive(seed, epoch, seeds.Stream.NEIGHBOURS) % 2**32)
        which = (random.random_sample(len(anchors)) * self.counts[anchors]).astype(np.int64)
        return self.places[anchors, which]


def _places(numbers: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each of ``numbers`` stands in ``among`` (N,); -1 where it does not."""
    order = among.argsort(kind="stable")
    at = np.searchsorted(among, numbers, sorter=order)
    places = order[at.clip(max=len(among) - 1)]
    return np.where(among[places] == numbers, places, -1)
