"""Writing files: atomically, through symbolic links, and never half."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

from ssltool.errors import SSLToolError, first_line
from ssltool.files.processes import STALE, lives, place_of_pids
from ssltool.files.text import storable

FilePath = str | os.PathLike[str]


@contextlib.contextmanager
def writing(path: FilePath) -> Iterator[None]:
    """Raises ``SSLToolError`` with the reason if writing ``path`` fails in the ``with`` block."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch's zip writer raises RuntimeError if a write fails; other RuntimeErrors, as from a GPU, are re-raised.
        if isinstance(error, RuntimeError) and not any(part in str(error) for part in ("inline_container", "Writer")):
            raise
        # torch's error hides that of the stream that it writes to.
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else first_line(error)
        kept = "; the existing file is kept" if os.path.isfile(path) else ""
        raise SSLToolError(f"cannot write {path}: {reason}{kept}; free space or choose another location") from error


Write = Callable[[IO[bytes]], object]
"""Writes to a binary stream, or reads from it."""


def write_atomically(path: FilePath, write: Write, check: Write | None = None) -> None:
    """Replaces ``path`` atomically by what ``write`` writes to the binary stream that it is called with.

    ``check`` is called with the new file, which is read back from the disk, before it replaces the old one; it raises
    ``OSError`` if something is wrong.

    A symbolic link stays, and its target is replaced or created. A device, a pipe, and the file that stdout or stderr
    is redirected to are written in place, once all bytes are known, and are not checked.

    Raises:
        SSLToolError: if the file cannot be written (disk full, no permission, links in a circle); ``path`` is then
            unchanged.
    """
    with writing(path):
        found = _stat(path)
        stream = _standard_stream(found)
        if found is None or (stat.S_ISREG(found.st_mode) and stream is None):
            _replace(Path(os.path.realpath(path)), write, check)
            return
        with tempfile.TemporaryFile() as buffer:  # formats seek, which pipes cannot
            _check_writable_in_place(path, found.st_mode, stream)
            write(buffer)
            buffer.seek(0)
            # Not blocking: a pipe that nobody reads is an error and does not wait.
            number = os.open(path, os.O_WRONLY | os.O_NONBLOCK) if stream is None else os.dup(stream)
            os.set_blocking(number, True)
            with open(number, "wb") as target:
                shutil.copyfileobj(buffer, target)


def copy_atomically(source: Path, path: Path, check: Write | None = None) -> None:
    """Replaces ``path`` atomically by a hard link to ``source``, or by a copy if the file system has no such links,
    which ``check`` checks as in ``write_atomically``.

    A symbolic link stays, and its target is replaced.

    Raises:
        SSLToolError: if it cannot be written; ``path`` is then unchanged.
    """
    target = Path(os.path.realpath(path))
    temporary = _temporary(target)
    with writing(path):
        try:
            os.link(source, temporary)
        except OSError:
            with open(source, "rb") as stream:
                write_atomically(path, lambda to: shutil.copyfileobj(stream, to), check)
            return
        with _removed_at_the_end(temporary):
            os.replace(temporary, target)


def write_folder(path: Path, names: Collection[str], fill: Callable[[Path], object]) -> None:
    """Replaces the folder ``path`` atomically by one with the files ``names``, which ``fill`` writes into the folder
    that it is called with.

    Raises:
        SSLToolError: if ``path`` is a file or a folder with other files, or cannot be written; it is then unchanged.
    """
    target = Path(os.path.realpath(path))
    with writing(path):
        if os.path.lexists(target) and not (target.is_dir() and {file.name for file in target.iterdir()} <= {*names}):
            raise SSLToolError(f"{path} exists and has other files than {', '.join(names)}; choose another name")
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = _temporary(target).name.removesuffix("tmp")
        with tempfile.TemporaryDirectory(prefix=prefix, suffix=".tmp", dir=target.parent) as temporary:
            new, old = Path(temporary, "new"), Path(temporary, "old")
            new.mkdir()
            fill(new)
            if target.exists():
                target.rename(old)
            try:
                new.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                raise
            _remove_stale(target, os.stat(temporary).st_mtime)  # not before: one may hold the folder that it replaces


def write_text(path: FilePath, text: str) -> None:
    """Writes ``text`` atomically, as valid UTF-8 in every locale.

    Bytes of file names that Python could not decode are written as UTF-8 if they are that, else as escapes.

    Raises:
        SSLToolError: if the file cannot be written.
    """
    write_atomically(path, lambda stream: stream.write(storable(text).encode()))


def write_json(path: FilePath, document: Any) -> None:
    """Writes ``document`` as indented JSON, atomically."""
    write_text(path, to_json(document, indent=2) + "\n")


def finite(value: Any) -> Any:
    """``value`` with None in place of NaN and infinity, which JSON does not support."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def to_json(document: Any, *, indent: int | None = None) -> str:
    """``document`` as JSON; NaN and infinity become null."""
    return json.dumps(finite(document), indent=indent, allow_nan=False)


def _stat(path: FilePath) -> os.stat_result | None:
    """The file that ``path`` leads to; None if there is none yet."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _standard_stream(found: os.stat_result | None) -> int | None:
    """The number of stdout or stderr if it writes to the file ``found``, as for ``/dev/stdout``."""
    for number in (1, 2):
        with contextlib.suppress(OSError):  # a closed stream
            if found is not None and os.path.samestat(found, os.fstat(number)):
                return number
    return None


def _check_writable_in_place(path: FilePath, mode: int, stream: int | None) -> None:
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stream is None and not (stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
        raise SSLToolError(f"{path} is a disk or a socket; name a file")


def _temporary(target: Path) -> Path:
    """The name of a file beside ``target`` that says whose it is."""
    return target.with_name(f".{target.name}.{place_of_pids()}.{os.getpid()}.tmp")


def _remove_stale(target: Path, now: float) -> None:
    """Removes what dead processes have left of writing ``target``. Those of other machines are dead if they have
    written nothing for ``STALE`` seconds until ``now``, by the clock of the file system."""
    named = re.compile(rf"[.]{re.escape(target.name)}[.]([0-9a-f]{{8}})[.]([0-9]{{1,10}})([.]\w+)?[.]tmp")
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:  # the next write tries again
        for entry in entries:
            if found := named.fullmatch(entry.name):
                here, silent = found[1] == place_of_pids(), now - entry.stat(follow_symlinks=False).st_mtime
                if lives(int(found[2])) if here else silent <= STALE:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


@contextlib.contextmanager
def _removed_at_the_end(temporary: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it does not exist if it was renamed or its folder could not be created
            temporary.unlink()


def _replace(target: Path, write: Write, check: Write | None) -> None:
    temporary = _temporary(target)
    with _removed_at_the_end(temporary):
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as stream:
            _remove_stale(target, os.fstat(stream.fileno()).st_mtime)
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
            if check is not None and hasattr(os, "posix_fadvise"):  # else it would be read from memory
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if check is not None:
            with open(temporary, "rb") as stream:
                check(stream)
        os.replace(temporary, target)
