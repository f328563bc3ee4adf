"""The labelled support of semi-supervised methods: selection of the images, and sampling for each step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssltool import seeds
from ssltool.data.images import ImageSet
from ssltool.errors import SSLToolError


def stratified_sample(
    labels: np.ndarray, fraction: float, seed: int, *, stream: seeds.Stream = seeds.Stream.SUPPORT, reserve: int = 0
) -> np.ndarray:
    """Sorted row indices of a random ``fraction`` of each class, at least one row; deterministic in seed and stream.

    ``labels`` (N,), -1 if unlabelled. Larger fractions contain smaller ones. At least ``reserve`` rows of each class
    are not selected.

    Raises:
        SSLToolError: if no image has a label.
    """
    classes = np.unique(labels[labels >= 0])
    if not len(classes):
        raise SSLToolError("labelled images are required, but no image has a label")
    order = np.random.RandomState(seeds.derive(seed, stream) % 2**32).permutation(len(labels))
    chosen = []
    for number in classes:
        rows = order[labels[order] == number]
        chosen.append(rows[: min(max(1, round(fraction * len(rows))), len(rows) - reserve)])
    return np.sort(np.concatenate(chosen))


@dataclass(frozen=True)
class Support:
    """The labelled ``images``. Each step samples ``classes`` classes and ``per_class`` images of each."""

    images: ImageSet
    classes: int
    per_class: int
    seed: int

    @property
    def batch_size(self) -> int:
        """Labelled images per step, over all ranks."""
        return self.classes * self.per_class

    def indices(self, epoch: int, steps: int) -> np.ndarray:
        """Indices into ``images`` for the steps of an epoch, (steps * batch_size,).

        Each step samples its classes without replacement. Images of a class are sampled with replacement only if it has
        fewer than ``per_class``.
        """
        labels = self.images.labels
        rows = {number: np.flatnonzero(labels == number) for number in np.unique(labels)}
        return np.concatenate([self._step(rows, epoch, step) for step in range(steps)])

    def _step(self, rows: dict[int, np.ndarray], epoch: int, step: int) -> np.ndarray:
        random = np.random.RandomState(seeds.derive(self.seed, epoch, step, seeds.Stream.SUPPORT) % 2**32)
        numbers = random.permutation(list(rows))[: self.classes]
        drawn = [random.choice(rows[n], self.per_class, replace=len(rows[n]) < self.per_class) for n in numbers]
        # Interleave the classes, so that the parts of the ranks have about the same classes.
        return np.stack(drawn, axis=1).ravel()
