"""Metrics of the patch tokens of one layer while batches of images pass."""

from __future__ import annotations

import math

from torch import Tensor

from ssltool.diagnosis.metrics.of_tokens import image_blocks, patch_cosine, ranks_of_images

PATCH_METRICS = ("patch_cosine", "patch_rank")
"""The metrics of the patches of a layer."""

RANKED = 128
"""Images of which the rank of the patches is computed, each by a singular value decomposition."""


class PatchSums:
    """Collects the patches of ``images`` images. ``patch_cosine`` is that of all of them, ``patch_rank`` that of at
    most ``RANKED`` at equal distances."""

    def __init__(self, images: int) -> None:
        self._every = max(1, -(-images // RANKED))
        self._next = self._seen = 0
        self._cosines = 0.0
        self._ranks: list[float] = []

    def begin(self, image: int) -> None:
        """Says that the first image is that of number ``image``, of a rank that does not begin with image 0."""
        self._next = image

    def merge(self, other: PatchSums) -> None:
        """Adds the images of other sums, which follow these."""
        self._seen += other._seen
        self._cosines += other._cosines
        self._ranks += other._ranks

    def update(self, patches: Tensor) -> None:
        """Adds finite patches (n, P, d) of n images; single patches have no metrics."""
        count = len(patches)
        if patches.shape[1] > 1:
            self._cosines += patch_cosine(patches) * count
            ranked = patches[-self._next % self._every :: self._every]
            for block in image_blocks(ranked) if len(ranked) else ():
                self._ranks += ranks_of_images(block)
        self._seen += count
        self._next += count

    def metrics(self) -> dict[str, float]:
        """``PATCH_METRICS``; NaN without patches."""
        if not self._ranks:
            return dict.fromkeys(PATCH_METRICS, math.nan)
        return {"patch_cosine": self._cosines / self._seen, "patch_rank": sum(self._ranks) / len(self._ranks)}
