"""Writes a cache: decodes the images of a set by several threads, reduces them, and appends them to an unfinished file.

The hidden file beside the target becomes it when all images are written. Its table tells how many are, so the same
command continues after a process that was stopped or killed. The pixels of a block are on the disk before its entries
in the table are written.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torchvision.transforms.functional as tv
from PIL import Image
from torchvision.transforms import InterpolationMode

from ssltool.data.decoding import decode
from ssltool.data.image_cache import CORRUPT, ENTRY, FORMAT, Sections, line_of, settings_of
from ssltool.data.opening import CorruptImage, without_warnings
from ssltool.data.pixels import PixelRules
from ssltool.errors import Interrupted
from ssltool.files.writing import writing
from ssltool.settings import Settings
from ssltool.training.launch import worker_count
from ssltool.training.progress import Progress, info
from ssltool.training.signals import StopRequest

if TYPE_CHECKING:
    from ssltool.data.images import ImageSet

BLOCK = 256
"""Images that are written at once. A process that is killed decodes at most two blocks again."""

LINES = 20
"""Lines of progress where there is no bar."""

POLL_SECONDS = 1.0
"""Seconds between attempts to lock a file that another process is writing."""


def write_cache(
    path: Path,
    images: ImageSet,
    given: PixelRules,
    size: int,
    notes: Sequence[str],
    *,
    workers: int | None = None,
    skip_corrupt: bool = False,
) -> None:
    """Writes the image files of ``images`` to the file ``path``, or continues after those that are written.

    If another process is writing the file, this one waits until that has finished it.

    Args:
        images: all images of a split, with the rules by which they are decoded.
        given: the rules as they were given, before a sample settled them.
        size: the shorter side of larger images; smaller ones are kept as they are.
        notes: lines about the pixels, kept with them.
        workers: the number of threads.
        skip_corrupt: record corrupt images as such.

    Raises:
        SSLToolError: if an image cannot be decoded, or the file not be written. What is written is kept.
        Interrupted: after SIGTERM, SIGINT or SIGUSR1. What is written is kept.
    """
    head = _head(images, given, size, notes)
    with StopRequest() as stop, _locked(path, stop) as stream:
        if stream is None:
            return
        file = _Unfinished(path, stream, head, images)
        if file.done:
            info(f"continuing {path} after {file.done:,} of {len(images):,} images")
        _fill(file, images, size, stop, max(1, worker_count(workers)), skip_corrupt)
        file.finish(path)


def reduced(image: Image.Image, size: int) -> Image.Image:
    """``image`` with ``size`` as its shorter side, if that is longer; resized as by the validation transform."""
    if min(image.size) <= size:
        return image
    small: Image.Image = tv.resize(image, [size], InterpolationMode.BILINEAR)
    return small


def _head(images: ImageSet, given: PixelRules, size: int, notes: Sequence[str]) -> Settings:
    return {
        "format": FORMAT,
        "layout": images.name,
        "split": images.split,
        "images": len(images),
        "names": len(_names(images)),
        "fingerprint": images.fingerprint,
        "labels": hashlib.sha256(images.labels.tobytes()).hexdigest()[:16],
        "classes": list(images.classes),
        "why_unlabelled": images.why_unlabelled,
        "given": settings_of(given, size),
        "rules": settings_of(images.rules, size),
        "notes": list(notes),
    }


def _names(images: ImageSet) -> bytes:
    return "\0".join(images.files or ()).encode(errors="surrogateescape")


@contextmanager
def _locked(path: Path, stop: StopRequest) -> Iterator[int | None]:
    """The unfinished file of ``path``, open and locked; None if another process has finished it meanwhile."""
    place = path.with_name(f".{path.name}.unfinished")
    waiting = False
    while True:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if _lock(stream, path):
                if path.exists():
                    if _is_at(stream, place):  # created by this process, after the other one had given its file a name
                        place.unlink()
                    yield None
                    return
                if _is_at(stream, place):
                    yield stream
                    return
            elif not waiting:
                info(f"waiting for another process, which writes {path}")
                waiting = True
        finally:
            os.close(stream)
        if stop.number:
            raise Interrupted(stop.number, "nothing: another process writes the cache")
        time.sleep(POLL_SECONDS if waiting else 0)


def _lock(stream: int, path: Path) -> bool:
    with writing(path):
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _is_at(stream: int, place: Path) -> bool:
    """Whether the open file is still the one at ``place``."""
    try:
        return os.path.samestat(os.fstat(stream), os.stat(place))
    except FileNotFoundError:
        return False


_flush = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class _Unfinished:
    """The file that is being written: ``done`` images are."""

    def __init__(self, path: Path, stream: int, head: Settings, images: ImageSet) -> None:
        self.path, self._stream = path, stream
        line = line_of(head)
        self.sections, self.total = Sections.of(len(line), head), len(images)
        with writing(path):
            found = os.pread(stream, len(line), 0)
            if found != line:
                if found:
                    info(f"{path} is unfinished, and of other images or settings: starting over")
                self._begin(line, images)
            self.done, self._end = self._written()
            os.ftruncate(stream, self._end)

    def _begin(self, line: bytes, images: ImageSet) -> None:
        """Everything but the pixels and the table; the head last, so that a file that has it is whole."""
        os.ftruncate(self._stream, 0)
        os.ftruncate(self._stream, self.sections.pixels)
        self._write(images.labels.astype("<i8").tobytes(), self.sections.labels)
        self._write(np.asarray(images.digests).astype("<i8").tobytes(), self.sections.digests)
        self._write(_names(images), self.sections.names)
        os.fsync(self._stream)
        self._write(line, 0)

    def _written(self) -> tuple[int, int]:
        """The number of images that are written, and where the pixels of the last one end."""
        table = bytearray()
        while len(table) < ENTRY.itemsize * self.total:
            table += os.pread(self._stream, ENTRY.itemsize * self.total - len(table), self.sections.table + len(table))
        entries = np.frombuffer(table, ENTRY)
        done = np.append(entries["offset"] == 0, True).argmax()
        entries = entries[:done][entries["offset"][:done] != CORRUPT]
        if not len(entries):
            return int(done), self.sections.pixels
        offset, height, width = entries[-1].item()
        return int(done), offset + 3 * height * width

    def append(self, block: Sequence[Image.Image | None]) -> None:
        """Writes the next images; None is a corrupt one."""
        entries = np.zeros(len(block), ENTRY)
        entries["offset"] = CORRUPT
        with writing(self.path):
            for number, image in enumerate(block):
                if image is not None:
                    entries[number] = self._end, image.height, image.width
                    self._end += self._write(image.tobytes(), self._end)
            _flush(self._stream)
            self._write(entries.tobytes(), self.sections.table + ENTRY.itemsize * self.done)
        self.done += len(block)

    def _write(self, data: bytes, offset: int) -> int:
        rest = memoryview(data)
        while rest:
            rest = rest[os.pwrite(self._stream, rest, offset + len(data) - len(rest)) :]
        return len(data)

    def finish(self, path: Path) -> None:
        """Gives the file its name."""
        with writing(path):
            os.fsync(self._stream)
            os.replace(path.with_name(f".{path.name}.unfinished"), path)


def _fill(file: _Unfinished, images: ImageSet, size: int, stop: StopRequest, workers: int, skip_corrupt: bool) -> None:
    """Appends the images that are missing. The next block is decoded while one is written."""
    starts = range(file.done, len(images), BLOCK)
    paths = images.paths or ()

    def make(row: int) -> Image.Image:
        return reduced(decode(paths[row], images.rules), size)

    every = max(1, len(starts) // LINES)
    progress = Progress(f"cache {images.split}", len(starts), every=every)
    pool = ThreadPoolExecutor(workers)

    def submit(start: int) -> list[Future[Image.Image]]:
        return [pool.submit(make, row) for row in range(start, min(start + BLOCK, len(images)))]

    with without_warnings(), closing(progress):
        try:
            ahead = submit(file.done)
            for start in starts:
                block, ahead = ahead, submit(start + BLOCK)
                _append(file, block, skip_corrupt)
                progress.update(len(block))
                if stop.number and file.done < len(images):
                    raise Interrupted(stop.number, f"{file.done:,} of {len(images):,} images of {file.path}")
        finally:
            pool.shutdown(cancel_futures=True)


def _append(file: _Unfinished, block: list[Future[Image.Image]], skip_corrupt: bool) -> None:
    """Writes a block, up to the first error."""
    made: list[Image.Image | None] = []
    try:
        for future in block:
            error = future.exception()
            if error is not None and not (skip_corrupt and isinstance(error, CorruptImage)):
                raise error
            made.append(None if error is not None else future.result())
    finally:
        file.append(made)
