"""Batches on the device from image indices.

Small images in memory are augmented in batches on the device, on a GPU large ones too. Of image files, and of large
images in memory on the CPU, worker processes make the views in 8 bits (``file_views``); for a GPU they only crop and
resize, and all other augmentations run on the device. The images of a step and the parameters of their views depend
only on the seed, the epoch and the step, not on the number of workers or ranks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ssltool import seeds
from ssltool.data import file_views, views
from ssltool.data.computed_orders import Order
from ssltool.data.image_files import MEMORY_LIMIT
from ssltool.data.images import ImageSet
from ssltool.data.preprocessing import Preprocessing
from ssltool.data.shard import ONE_PROCESS, Shard
from ssltool.data.views import Recipe, ViewParams
from ssltool.data.workers import Decoded, Received, Request, Requests, file_loader, next_batch, view_requests
from ssltool.errors import SSLToolError

BATCHED_SIZE = 64
"""Side in pixels of images and views up to which the views of images in memory are made in batches on a CPU too."""


@dataclass
class Batch:
    """``views``: V tensors (B, 3, S, S), where S may differ; ``labels`` (B,), -1 if unlabelled; ``rows`` (B,), indices
    into the ``ImageSet``; ``support``: labelled images of the step; ``first``: its place in the batch of all ranks;
    ``boxes`` (B, V, 4): where training views lie in their images, as ``views.view_boxes``; ``padding``: how many of its
    last images only make it as large as that of the other ranks."""

    views: list[Tensor]
    labels: Tensor
    rows: Tensor
    support: Batch | None = None
    first: int = 0
    boxes: Tensor | None = None
    padding: int = 0

    def without_padding(self, rows: Tensor) -> Tensor:
        """The ``rows`` (B, ...) of the batch that are not padding."""
        return rows[: len(rows) - self.padding]

    def channels_last(self) -> Batch:
        """The batch with all views in channels-last memory format."""
        views = [view.contiguous(memory_format=torch.channels_last) for view in self.views]
        support = self.support.channels_last() if self.support is not None else None
        return dataclasses.replace(self, views=views, support=support)


class Loader:
    """Batches of one ``ImageSet`` on one device, with the transform of a network.

    Its size is the side of views whose recipe has no size.
    """

    def __init__(self, images: ImageSet, preprocessing: Preprocessing, device: torch.device, workers: int = 0) -> None:
        self.images = images
        self.preprocessing = preprocessing
        self.device = device
        self.labels = torch.from_numpy(images.labels)
        pixels = images.images
        if pixels is not None and device.type == "cuda" and pixels.nbytes <= MEMORY_LIMIT:
            pixels = pixels.to(device)
        self.pixels = pixels
        self.in_bytes = device.type == "cpu"  # how training views of files and of large images are made
        self._workers = workers
        self._requests = Requests()
        self._files: DataLoader[Received] | None = None

    def train(
        self,
        indices: Order,
        recipes: list[Recipe],
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        first_step: int = 0,
        shard: Shard = ONE_PROCESS,
        parts: int = 1,
    ) -> Iterator[Batch]:
        """The batches of one epoch, starting at ``first_step``, with one view per recipe.

        ``indices`` (steps * batch_size,) index the ``ImageSet``; the last batch may be smaller. A rank has the same
        share of each of the ``parts`` of a batch, which are equally large.

        Raises:
            SSLToolError: naming the image, if one cannot be decoded.
        """
        starts = range(first_step * batch_size, len(indices), batch_size)
        preprocessing = self.preprocessing
        sizes = [recipe.size or preprocessing.size for recipe in recipes]

        def step_rows(start: int) -> tuple[np.ndarray, list[ViewParams]]:
            rows = indices[start : start + batch_size]
            generator = seeds.generator(seed, epoch, start // batch_size)
            local = shard.of_parts(len(rows), parts)
            return rows[local], [views.sample_params(len(rows), recipe, generator)[local] for recipe in recipes]

        def padding(start: int) -> int:
            return shard.padding(len(indices[start : start + batch_size]))

        if self._in_batches(sizes):
            for start in starts:
                rows, params = step_rows(start)
                images = self._gather(rows)

                def cut(numbers: list[int], drawn: ViewParams, size: int, images: Tensor = images) -> Tensor:
                    return views.train_view(images.repeat(len(numbers), 1, 1, 1), drawn, size, preprocessing)

                boxes = torch.stack([views.view_boxes(drawn, *images.shape[-2:]) for drawn in params], dim=1)
                yield self._batch(rows, _by_size(params, sizes, cut), boxes, padding(start))
            return
        if self.in_bytes:
            file_views.require_opencv()
        requests = (view_requests(*step_rows(start), sizes) for start in starts)
        received = self._decoded(requests, len(shard.padded(batch_size)), sizes)
        for start, (*pixels, boxes) in zip(starts, received, strict=True):
            rows, params = step_rows(start)
            if self.in_bytes:
                made = [views.finish_bytes(*pair, preprocessing) for pair in zip(pixels, params, strict=True)]
                yield self._batch(rows, made, boxes, padding(start))
                continue

            def finish(numbers: list[int], drawn: ViewParams, size: int, crops: list[Tensor] = pixels) -> Tensor:
                together = torch.cat([crops[i] for i in numbers])
                return views.finish(together.float() / 255.0, drawn, preprocessing)

            yield self._batch(rows, _by_size(params, sizes, finish), boxes, padding(start))

    def _in_batches(self, sizes: list[int]) -> bool:
        """Whether the views are made in batches on the device, of images in memory."""
        if self.pixels is None or self.preprocessing.interpolation != "bilinear":
            return False
        return not self.in_bytes or max(*self.pixels.shape[-2:], *sizes) <= BATCHED_SIZE

    def evaluate(
        self, batch_size: int, rows: np.ndarray | None = None, *, shard: Shard = ONE_PROCESS
    ) -> Iterator[Batch]:
        """All images in order, or those at indices ``rows``, with the validation transform; of several ranks each has
        its slice, in as many batches as the others.

        Raises:
            SSLToolError: naming the image, if one cannot be decoded.
        """
        preprocessing, size = self.preprocessing, self.preprocessing.size
        rows = np.arange(len(self.images)) if rows is None else rows
        own = len(rows[shard.slice(len(rows))])
        rows = rows[shard.padded(len(rows))]
        parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]

        def batch(number: int, view: Tensor) -> Batch:
            padding = min(len(view), max(0, number * batch_size + len(view) - own))
            return self._batch(parts[number], [view], padding=padding)

        if self.pixels is not None and views.can_view(self.pixels, preprocessing):
            for number, part in enumerate(parts):
                yield batch(number, views.eval_view(self._gather(part), preprocessing))
            return
        requests: Iterator[list[Request]] = ([(int(row), None, [size]) for row in part] for part in parts)
        for number, pixels in enumerate(self._decoded(requests, batch_size, [size])):
            yield batch(number, views.standardise(pixels[0].float() / 255.0, preprocessing))

    def close(self) -> None:
        """Stops the worker processes."""
        self._files = None

    def _gather(self, rows: np.ndarray) -> Tensor:
        pixels = self.pixels
        if pixels is None:
            raise RuntimeError("the images are not in memory")
        return pixels[torch.from_numpy(rows).to(pixels.device)].to(self.device)

    def _decoded(self, requests: Iterator[list[Request]], batch_size: int, sizes: list[int]) -> Iterator[list[Tensor]]:
        """The images of each batch of ``requests`` on the device, (B, 3, S, S) uint8 for each of ``sizes``; after
        training views their boxes (B, V, 4)."""
        if self._files is None:
            batch_bytes = 3 * batch_size * sum(size * size for size in sizes)
            decoded = Decoded(self.images, self.preprocessing, finished=self.in_bytes)
            self._files = file_loader(decoded, self._workers, self._requests, self.device, batch_bytes)
        self._requests.batches = requests
        received = iter(self._files)
        while (batch := next_batch(received)) is not None:
            if isinstance(batch, SSLToolError):
                raise batch
            yield [torch.as_tensor(view).to(self.device, non_blocking=True) for view in batch]

    def _batch(self, rows: np.ndarray, made: list[Tensor], boxes: Tensor | None = None, padding: int = 0) -> Batch:
        indices = torch.from_numpy(rows)
        boxes = None if boxes is None else boxes.to(self.device)
        return Batch(made, self.labels[indices].to(self.device), indices.to(self.device), boxes=boxes, padding=padding)


def _by_size(
    params: list[ViewParams], sizes: list[int], make: Callable[[list[int], ViewParams, int], Tensor]
) -> list[Tensor]:
    """The views, computed by one call of ``make(view_indices, params, size)`` per size."""
    made: dict[int, Tensor] = {}
    for size in dict.fromkeys(sizes):
        numbers = [i for i, other in enumerate(sizes) if other == size]
        together = make(numbers, ViewParams.concatenate([params[i] for i in numbers]), size)
        made |= zip(numbers, together.chunk(len(numbers)), strict=True)
    return [made[i] for i in range(len(params))]
