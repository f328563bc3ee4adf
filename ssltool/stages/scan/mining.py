"""The first step: the nearest neighbours of each image, and the table that clustering samples them from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ssltool import seeds
from ssltool.data.images import ImageSet
from ssltool.data.shard import ONE_PROCESS, Shard
from ssltool.errors import SSLToolError
from ssltool.files.misfit import shown
from ssltool.files.writing import FilePath
from ssltool.reprs.neighbours.file import Neighbours
from ssltool.reprs.neighbours.search import neighbours
from ssltool.reprs.representation_set import NETWORK_KEYS, NETWORK_TITLES, SPLIT_KEYS
from ssltool.reprs.representations import Representations
from ssltool.runs.resume import differences
from ssltool.settings import Record
from ssltool.training import distributed

NETWORK = {key: f"the {title}" for key, title in NETWORK_TITLES.items()} | {
    "checkpoint_hash": "the hash of the checkpoint",
    "random": "untrained",
}
"""What a file of neighbours keeps of the network that embedded the images, and how messages call it."""


def mined_differences(names: Mapping[str, str], old: Record, now: Record) -> list[str]:
    """The differences of those entries ``names`` of the metadata of neighbours that ``old`` has, for messages."""
    known = {name: now.get(name) for name in names}
    return differences([name for name in names if name in old], old, known, names.__getitem__)


def check_neighbours(k: int, images: int) -> None:
    """Checks that each of ``images`` images has ``k`` others.

    Raises:
        SSLToolError: if it does not.
    """
    if k >= images:
        raise SSLToolError(f"--neighbours {k} must be smaller than the number of images ({images}); lower it")


def mine(reprs: Representations, k: int, device: torch.device, shard: Shard = ONE_PROCESS) -> Neighbours:
    """The ``k`` nearest other rows of each row by cosine similarity. Of several ranks, each searches for its share of
    the rows.

    This is the inner product of the paper, whose features have length 1. ``meta["accuracy"]`` is the fraction of
    neighbours with the same label, None without labels.

    Raises:
        SSLToolError: if there are not more than ``k`` rows.
    """
    check_neighbours(k, len(reprs))
    features, index = reprs.representations, reprs.index
    own = slice(None) if shard.world == 1 else torch.from_numpy(shard.padded(len(reprs)))
    with distributed.raise_on_all_ranks():
        found = neighbours(features, features[own], k=k, skip=(index, index[own]), device=device)
    similarity, indices = (distributed.gather(one)[: len(reprs)] for one in found)
    valid = indices >= 0  # -1 fills rows whose image number occurs twice
    labels = reprs.targets[indices.clamp(min=0)]
    compared = valid & (labels >= 0) & (reprs.targets[:, None] >= 0)
    same_label = (labels == reprs.targets[:, None])[compared]
    meta = {name: reprs.meta.get(name) for name in (*NETWORK_KEYS, *SPLIT_KEYS, "fingerprint")}
    accuracy = float(same_label.double().mean()) if len(same_label) else None
    return Neighbours(
        indices,
        -similarity,
        index,
        torch.where(valid, index[indices.clamp(min=0)], -1),
        meta | {"metric": "cos", "k": k, "accuracy": accuracy},
    )


@dataclass(frozen=True)
class NeighbourTable:
    """The neighbours of N images.

    Attributes:
        indices: neighbours (N, k), as indices of the N images.
        counts: number of valid neighbours of each image (N,), at least 1; they come first in its row.
        isolated: number of images without a neighbour; each is its own neighbour.
    """

    indices: np.ndarray
    counts: np.ndarray
    isolated: int

    @classmethod
    def of(cls, file: Neighbours, images: ImageSet, path: FilePath) -> NeighbourTable:
        """The table of ``images`` from the file ``path``, by image numbers. Neighbours not in ``images`` are dropped.

        Raises:
            SSLToolError: if the file is of other images, or an image is missing.
        """
        dataset = file.meta.get("dataset")
        if dataset not in (None, images.name):
            raise SSLToolError(
                f"{path} has neighbours of the dataset {shown(dataset)}, but the images are of {images.name}; mine "
                "again, or name the images that were mined"
            )
        own = _find(images.index, file.index.numpy())
        if (own < 0).any():
            missing = images.index[own < 0]
            raise SSLToolError(
                f"{path} lacks {len(missing)} of the {len(own)} images, the first is number {missing[0]}; mine again"
            )
        indices = _find(file.bank_index.numpy()[own], images.index)
        indices = np.take_along_axis(indices, (indices < 0).argsort(axis=1, kind="stable"), axis=1)
        counts = (indices >= 0).sum(axis=1)
        isolated = np.flatnonzero(counts == 0)
        indices[isolated, 0], counts[isolated] = isolated, 1
        return cls(indices, counts, len(isolated))

    def with_self(self) -> NeighbourTable:
        """The table in which each image is its own first neighbour, as in the authors' validation."""
        own = np.arange(len(self.indices))[:, None]
        return NeighbourTable(np.concatenate([own, self.indices], axis=1), self.counts + 1, self.isolated)

    def draw(self, anchors: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """A random neighbour of each of ``anchors`` (n,); deterministic in the seed and the epoch."""
        random = np.random.RandomState(seeds.derive(seed, epoch, seeds.Stream.NEIGHBOURS) % 2**32)
        which = (random.random_sample(len(anchors)) * self.counts[anchors]).astype(np.int64)
        return self.indices[anchors, which]


def _find(numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The index of each of ``numbers`` in ``values`` (N,); -1 if it is not there."""
    order = values.argsort(kind="stable")
    positions = np.searchsorted(values, numbers, sorter=order)
    indices = order[positions.clip(max=len(values) - 1)]
    return np.where(values[indices] == numbers, indices, -1)
