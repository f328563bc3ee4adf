"""Labelled images beside the unlabelled ones: which they are, and which of them each step sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssltool import seeds
from ssltool.data.images import ImageSet
from ssltool.errors import SSLToolError


def labelled_rows(
    labels: np.ndarray, fraction: float, seed: int, *, stream: seeds.Stream = seeds.Stream.SUPPORT, leave: int = 0
) -> np.ndarray:
    """Rows of ``fraction`` of the images of each class, at least one, in order; a function of the seed and the stream.

    ``labels`` (N,), -1 where unlabelled. Larger fractions contain smaller ones. Of each class at least ``leave`` rows
    are not taken.

    Raises:
        SSLToolError: if there are no labels at all.
    """
    classes = np.unique(labels[labels >= 0])
    if not len(classes):
        raise SSLToolError("none of the images has a label; labelled ones are needed")
    order = np.random.RandomState(seeds.derive(seed, stream) % 2**32).permutation(len(labels))
    chosen = []
    for number in classes:
        rows = order[labels[order] == number]
        chosen.append(rows[: min(max(1, round(fraction * len(rows))), len(rows) - leave)])
    return np.sort(np.concatenate(chosen))


@dataclass(frozen=True)
class Support:
    """The labelled ``images``, of which every step sees ``per_class`` of each of ``classes`` classes."""

    images: ImageSet
    classes: int
    per_class: int
    seed: int

    @property
    def batch_size(self) -> int:
        """Labelled images of a step, over all ranks."""
        return self.classes * self.per_class

    def indices(self, epoch: int, steps: int) -> np.ndarray:
        """Places in ``images`` for the steps of an epoch, (steps * batch_size,).

        Classes are drawn anew for each step where not all take part; images of a class repeat only where it has too
        few.
        """
        labels = self.images.labels
        rows = {number: np.flatnonzero(labels == number) for number in np.unique(labels)}
        return np.concatenate([self._step(rows, epoch, step) for step in range(steps)])

    def _step(self, rows: dict[int, np.ndarray], epoch: int, step: int) -> np.ndarray:
        random = np.random.RandomState(seeds.derive(self.seed, epoch, step, seeds.Stream.SUPPORT) % 2**32)
        numbers = random.permutation(list(rows))[: self.classes]
        drawn = [random.choice(rows[n], self.per_class, replace=len(rows[n]) < self.per_class) for n in numbers]
        # One of each class in turn, so that equal parts of it, for the ranks, have about the same classes.
        return np.stack(drawn, axis=1).ravel()
