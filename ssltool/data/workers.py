"""The worker processes that decode images and make views of them, one image at a time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
import torchvision.transforms.functional as tv
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode

from ssltool.data import file_views, sources
from ssltool.data.decoding import decode
from ssltool.data.images import ImageSet
from ssltool.data.opening import without_warnings
from ssltool.data.preprocessing import Preprocessing
from ssltool.data.shared_memory import PREFETCHED, fits_shared_memory
from ssltool.data.views import ViewParams
from ssltool.errors import SSLToolError, first_line

SIGTERM_GRACE_SECONDS = 20
"""Seconds until a worker exits after SIGTERM."""

# One image to decode: its row, the parameters of its views (V,) ``PACKED`` (None for the validation transform), and the
# sizes of the views.
Request = tuple[int, np.ndarray | None, list[int]]


def view_requests(rows: np.ndarray, params: list[ViewParams], sizes: list[int]) -> list[Request]:
    """The requests of a batch: for each row its parameters, one for each view, and the ``sizes`` of the views."""
    packed = np.stack([drawn.packed() for drawn in params], axis=1)
    return [(int(row), packed[i], sizes) for i, row in enumerate(rows)]


class Requests:
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


class Decoded(Dataset[list[Tensor] | SSLToolError]):
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


Received: TypeAlias = list[Tensor] | list[np.ndarray] | SSLToolError


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


def _collate_arrays(items: list[list[Tensor] | SSLToolError]) -> Received:
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


def next_batch(received: Iterator[Received]) -> Received | None:
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


def file_loader(
    decoded: Decoded, workers: int, requests: Requests, device: torch.device, batch_bytes: int
) -> DataLoader[Received]:
    """The batches of ``requests``, decoded by ``workers`` processes, or by the caller if there are none; those of
    ``batch_bytes`` that do not fit into shared memory come through pipes."""
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
