"""Indices to batches on the device.

Images in memory are gathered and turned into views on the device. Image files are decoded once in a worker process,
which also crops and scales each view; everything photometric happens on the device. Which images, and every
parameter of their views, follow from the seed, the epoch and the step alone, so nothing depends on workers or ranks.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torchvision.transforms.functional as tv
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssltool import seeds
from ssltool.data import views
from ssltool.data.images import MEMORY_LIMIT, ImageSet, decode
from ssltool.data.views import Draws, Recipe
from ssltool.errors import SSLToolError

GRACE = 20
"""Seconds that a worker goes on after SIGTERM."""


@dataclass
class Batch:
    """``views``: V tensors (B, 3, S, S), each of its own S; ``labels`` (B,), -1 where unlabelled; ``rows`` (B,), places
    in the ``ImageSet``; ``support``, labelled images that come with the step, for a method that asks for them."""

    views: list[Tensor]
    labels: Tensor
    rows: Tensor
    support: Batch | None = None

    def channels_last(self) -> Batch:
        """The same with every view's channels last in memory."""
        views = [view.contiguous(memory_format=torch.channels_last) for view in self.views]
        support = self.support.channels_last() if self.support is not None else None
        return Batch(views, self.labels, self.rows, support)


@dataclass(frozen=True)
class Shard:
    """The part of every global batch that this process works on."""

    rank: int = 0
    world: int = 1

    def slice(self, batch_size: int) -> slice:
        """This rank's rows of a batch; the ranks' slices are equal and in order."""
        share = batch_size // self.world
        return slice(self.rank * share, (self.rank + 1) * share)


class Loader:
    """Batches of one ``ImageSet`` on one device, at one input size where a recipe names no other."""

    def __init__(self, images: ImageSet, size: int, device: torch.device, workers: int = 0) -> None:
        self.images = images
        self.size = size
        self.device = device
        self.labels = torch.from_numpy(images.labels)
        pixels = images.images
        if pixels is not None and device.type == "cuda" and pixels.nbytes <= MEMORY_LIMIT:
            pixels = pixels.to(device)
        self.pixels = pixels
        self._requests = _Requests()
        self._files = None if pixels is not None else _file_loader(images, workers, self._requests, device)

    def train(
        self,
        indices: np.ndarray,
        recipes: list[Recipe],
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        first_step: int = 0,
        shard: Shard = Shard(),
    ) -> Iterator[Batch]:
        """The steps of one epoch from ``first_step`` on, one view per recipe.

        ``indices`` (steps * batch_size,) are places in the ``ImageSet``; a last batch may be smaller.

        Raises:
            SSLToolError: naming the image, if one cannot be decoded.
        """
        starts = range(first_step * batch_size, len(indices), batch_size)
        sizes = [recipe.size or self.size for recipe in recipes]

        def step_rows(start: int) -> tuple[np.ndarray, list[Draws]]:
            rows = indices[start : start + batch_size]
            generator = seeds.generator(seed, epoch, start // batch_size)
            mine = shard.slice(len(rows))
            return rows[mine], [views.draw(len(rows), recipe, generator)[mine] for recipe in recipes]

        if self._files is None:
            for start in starts:
                rows, draws = step_rows(start)
                images = self._gather(rows)

                def cut(numbers: list[int], drawn: Draws, size: int, images: Tensor = images) -> Tensor:
                    return views.train_view(images.repeat(len(numbers), 1, 1, 1), drawn, size)

                yield self._batch(rows, _by_size(draws, sizes, cut))
            return
        self._requests.batches = (_crop_requests(*step_rows(start), sizes) for start in starts)
        for start, received in zip(starts, self._files, strict=True):
            rows, draws = step_rows(start)
            crops = self._received(received)

            def finish(numbers: list[int], drawn: Draws, size: int, crops: list[Tensor] = crops) -> Tensor:
                return views.finish(torch.cat([crops[i] for i in numbers]).float() / 255.0, drawn)

            yield self._batch(rows, _by_size(draws, sizes, finish))

    def evaluate(self, batch_size: int, rows: np.ndarray | None = None) -> Iterator[Batch]:
        """All images in order, once, by the validation transform; or those in ``rows``, places in the ``ImageSet``.

        Raises:
            SSLToolError: naming the image, if one cannot be decoded.
        """
        rows = np.arange(len(self.images)) if rows is None else rows
        parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        if self._files is None:
            for part in parts:
                yield self._batch(part, [views.eval_view(self._gather(part), self.size)])
            return
        self._requests.batches = ([(int(row), None, [self.size]) for row in part] for part in parts)
        for part, received in zip(parts, self._files, strict=True):
            yield self._batch(part, [views.standardise(self._received(received)[0].float() / 255.0)])

    def close(self) -> None:
        """Ends the worker processes, and with them the loader of image files."""
        self._files = None

    def _gather(self, rows: np.ndarray) -> Tensor:
        pixels = self.pixels
        if pixels is None:
            raise RuntimeError("these images are files")
        return pixels[torch.from_numpy(rows).to(pixels.device)].to(self.device)

    def _received(self, crops: list[Tensor] | SSLToolError) -> list[Tensor]:
        if isinstance(crops, SSLToolError):
            raise crops
        return [view.to(self.device, non_blocking=True) for view in crops]

    def _batch(self, rows: np.ndarray, made: list[Tensor]) -> Batch:
        places = torch.from_numpy(rows)
        return Batch(made, self.labels[places].to(self.device), places.to(self.device))


def _by_size(draws: list[Draws], sizes: list[int], make: Callable[[list[int], Draws, int], Tensor]) -> list[Tensor]:
    """The views, those of one size made together: ``make(numbers, draws, size)`` makes the numbered ones."""
    made: dict[int, Tensor] = {}
    for size in dict.fromkeys(sizes):
        numbers = [i for i, other in enumerate(sizes) if other == size]
        together = make(numbers, Draws.concatenate([draws[i] for i in numbers]), size)
        made |= zip(numbers, together.chunk(len(numbers)), strict=True)
    return [made[i] for i in range(len(draws))]


# One image to decode: its row, for each view a row of ``Draws.crops`` (None asks for the validation transform), and
# the views' sizes.
Request = tuple[int, np.ndarray | None, list[int]]


def _crop_requests(rows: np.ndarray, draws: list[Draws], sizes: list[int]) -> list[Request]:
    crops = np.stack([d.crops() for d in draws], axis=1)
    return [(int(row), crops[i], sizes) for i, row in enumerate(rows)]


class _Requests:
    """The batch sampler: hands the loader whatever requests were last put in, so its workers live on between epochs."""

    def __init__(self) -> None:
        self.batches: Iterator[list[Request]] = iter(())

    def __iter__(self) -> Iterator[list[Request]]:
        return iter(self.batches)


def eval_pixels(image: Image.Image, size: int) -> Tensor:
    """The validation transform of a PIL image in RGB, before normalising: (3, size, size) uint8."""
    if image.size != (size, size):
        image = tv.center_crop(tv.resize(image, [views.eval_resize(size)]), [size, size])
    return tv.pil_to_tensor(image)


class _Decoded(Dataset[list[Tensor] | SSLToolError]):
    """Decoded, cropped and scaled images, one (3, S, S) uint8 per view; an image that cannot be decoded is returned as
    its error, which the main process raises in one piece."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self.paths = np.array(paths)  # one buffer: a tuple of strings would be copied page by page into each worker

    def __getitem__(self, request: Request) -> list[Tensor] | SSLToolError:
        row, draws, sizes = request
        try:
            image = decode(str(self.paths[row]))
        except SSLToolError as error:
            return error
        if draws is None:
            return [eval_pixels(image, sizes[0])]
        crops = []
        for crop, size in zip(map(views.Crop.of_row, draws), sizes, strict=True):
            box = views.crop_boxes(crop, image.height, image.width)[0].tolist()
            cropped = tv.resized_crop(image, *box, [size, size])
            crops.append(tv.pil_to_tensor(tv.hflip(cropped) if crop.flip else cropped))
        return crops


def _collate(items: list[list[Tensor] | SSLToolError]) -> list[Tensor] | SSLToolError:
    images = []
    for item in items:
        if isinstance(item, SSLToolError):
            return item
        images.append(item)
    return [torch.stack(view) for view in zip(*images, strict=True)]


def _outlive_signals(worker: int) -> None:
    """Ctrl-C and batch systems signal every process, and the main one needs its workers until it has saved and ends
    them. SIGTERM ends a worker after a while nevertheless, in case the main process came to grief."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))


def _file_loader(
    images: ImageSet, workers: int, requests: _Requests, device: torch.device
) -> DataLoader[list[Tensor] | SSLToolError]:
    return DataLoader(
        _Decoded(images.paths or ()),
        batch_sampler=requests,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_collate,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        worker_init_fn=_outlive_signals,
        generator=torch.Generator(),  # its own, so that starting workers draws nothing from the global one
    )
