"""Batches on the device from image indices.

Small images in memory are augmented in batches on the device, on a GPU large ones too. Of image files, and of large
images in memory on the CPU, worker processes make the views in 8 bits (``file_views``); for a GPU they only crop and
resize, and all other augmentations run on the device. The images of a step and the parameters of their views depend
only on the seed, the epoch and the step, not on the number of workers or ranks.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torchvision.transforms.functional as tv
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode

from ssltool import seeds
from ssltool.data import file_views, sources, views
from ssltool.data.computed_orders import Order
from ssltool.data.decoding import decode
from ssltool.data.image_files import MEMORY_LIMIT
from ssltool.data.images import ImageSet
from ssltool.data.opening import without_warnings
from ssltool.data.preprocessing import Preprocessing
from ssltool.data.shard import ONE_PROCESS, Shard
from ssltool.data.shared_memory import PREFETCHED, fits_shared_memory
from ssltool.data.views import Recipe, ViewParams
from ssltool.errors import SSLToolError, first_line

SIGTERM_GRACE_SECONDS = 20
"""Seconds until a worker exits after SIGTERM."""

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
        self._requests = _Requests()
        self._files: DataLoader[_Received] | None = None

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
        requests = (_view_requests(*step_rows(start), sizes) for start in starts)
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
            decoded = _Decoded(self.images, self.preprocessing, finished=self.in_bytes)
            self._files = _file_loader(decoded, self._workers, self._requests, self.device, batch_bytes)
        self._requests.batches = requests
        received = iter(self._files)
        while (batch := _next(received)) is not None:
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


# One image to decode: its row, the parameters of its views (V,) ``PACKED`` (None for the validation transform), and the
# sizes of the views.
Request = tuple[int, np.ndarray | None, list[int]]


def _view_requests(rows: np.ndarray, params: list[ViewParams], sizes: list[int]) -> list[Request]:
    packed = np.stack([drawn.packed() for drawn in params], axis=1)
    return [(int(row), packed[i], sizes) for i, row in enumerate(rows)]


class _Requests:
    """Batch sampler that yields the current ``batches``, so that workers persist between epochs."""

    def __init__(self) -> None:
        self.batches: Iterator[list[Request]] = iter(())

    def __iter__(self) -> Iterator[list[Request]]:
        return iter(self.batches)


def eval_pixels(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """The validation transform of a PIL image, before standardising: (C, S, S) uint8."""
    p = preprocessing
    if not p.keeps(image.size):
        sides = [p.resize, p.resize] if p.squash else [p.resize]
        image = tv.center_crop(tv.resize(image, sides, InterpolationMode(p.interpolation)), [p.size, p.size])
    return tv.pil_to_tensor(image)


class _Decoded(Dataset[list[Tensor] | SSLToolError]):
    """The views of single images, uint8: (C, S, S) of the validation transform and of crops that a GPU augments,
    (S, S, 3) of ``finished`` views; last the boxes (V, 4) of crops. If decoding fails, the error is returned and
    raised in the main process."""

    def __init__(self, images: ImageSet, preprocessing: Preprocessing, finished: bool) -> None:
        self.rules, self.pixels, self.cached = images.rules, images.images, images.cached
        self.preprocessing, self.finished = preprocessing, finished
        self.paths = sources.shared(images.paths or () if images.cached is None else ())

    def __getitem__(self, request: Request) -> list[Tensor] | SSLToolError:
        row, params, sizes = request
        try:
            if params is None:
                return [eval_pixels(self._image(row), self.preprocessing)]
            crops = self._crops(row, params, sizes)
        except SSLToolError as error:
            return error
        if not self.finished:
            return [*crops.views, crops.boxes]
        made = (file_views.finish(crop, one) for crop, one in zip(crops.views, params, strict=True))
        return [*(torch.from_numpy(view).permute(2, 0, 1) for view in made), crops.boxes]

    def _crops(self, row: int, params: np.ndarray, sizes: list[int]) -> file_views.Crops:
        interpolation = self.preprocessing.interpolation
        if self.pixels is not None:
            image = self.pixels[row].expand(3, -1, -1).permute(1, 2, 0).numpy()
        elif self.cached is not None:
            image = self.cached.pixels(row)
        else:
            return file_views.file_crops(self.paths[row], self.rules, params, sizes, interpolation)
        return file_views.crops(image, params, sizes, interpolation)

    def _image(self, row: int) -> Image.Image:
        if self.pixels is not None:
            return tv.to_pil_image(self.pixels[row])  # type: ignore[no-any-return]
        return decode(self.paths[row], self.rules) if self.cached is None else Image.fromarray(self.cached.pixels(row))


_Received: TypeAlias = list[Tensor] | list[np.ndarray] | SSLToolError


def _collate(items: list[list[Tensor] | SSLToolError]) -> list[Tensor] | SSLToolError:
    images = []
    for item in items:
        if isinstance(item, SSLToolError):
            return item
        images.append(item)
    return [_stacked(view) for view in zip(*images, strict=True)]


def _stacked(views: tuple[Tensor, ...]) -> Tensor:
    """The views of a batch (B, C, S, S), in their memory format."""
    if views[0].is_contiguous():
        return torch.stack(views)
    return torch.stack([view.permute(1, 2, 0) for view in views]).permute(0, 3, 1, 2)


def _collate_arrays(items: list[list[Tensor] | SSLToolError]) -> _Received:
    """The batch as arrays, which workers send through a pipe, while they place tensors in shared memory."""
    batch = _collate(items)
    return batch if isinstance(batch, SSLToolError) else [view.numpy() for view in batch]


class WorkerKilled(SSLToolError):
    """A process that decodes images was killed."""

    resumable = True


@contextmanager
def killed_workers(kept: str = "") -> Iterator[None]:
    """Turns the error of a killed worker into a ``WorkerKilled``, whose message ends with ``kept``. torch raises it
    from a signal handler too, hence anywhere in the main process: stages run within this."""
    try:
        yield
    except WorkerKilled as error:
        raise WorkerKilled(f"{error}; {kept}") if kept else error from error.__cause__
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise WorkerKilled(f"{_ended(error)}{kept and '; '}{kept}") from error


def _next(received: Iterator[_Received]) -> _Received | None:
    """The next batch of the workers, None at the end."""
    with killed_workers():
        try:
            return next(received, None)
        except (ConnectionError, EOFError, FileNotFoundError) as error:  # the other end of the pipe or socket is gone
            raise _ended(error) from error


def _ended(error: Exception) -> WorkerKilled:
    if threading.current_thread() is threading.main_thread():
        # torch's handler would raise its error again, anywhere; later loaders look at their workers every 5 s.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return WorkerKilled(
        f"a process that decodes images ended ({first_line(error).rstrip('. ')}), as when memory runs out; use fewer "
        "processes (-j) or a smaller --batch-size"
    )


def _set_up_worker(worker: int) -> None:
    """Keeps workers alive on signals. Ctrl-C and batch systems signal all processes, but the main process needs its
    workers until it has saved. After SIGTERM a worker exits after a delay, in case the main process crashed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(SIGTERM_GRACE_SECONDS))
    without_warnings().__enter__()  # once for the process, which costs less than once for each image


def _file_loader(
    decoded: _Decoded, workers: int, requests: _Requests, device: torch.device, batch_bytes: int
) -> DataLoader[_Received]:
    shared = workers == 0 or fits_shared_memory(batch_bytes, workers)
    return DataLoader(
        decoded,
        batch_sampler=requests,  # type: ignore[arg-type]
        num_workers=workers,
        prefetch_factor=PREFETCHED if workers else None,
        collate_fn=_collate if shared else _collate_arrays,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        worker_init_fn=_set_up_worker,
        generator=torch.Generator(),  # separate, so that starting workers does not advance the global one
    )
