"""Run folders: where a training stage writes its settings, metrics and checkpoints.

config.json  metrics.jsonl  images.jsonl  val_images.jsonl  order.npy  checkpoint_0009.pt ...  checkpoint.pt (newest)
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.saved_run import SETTINGS
from ssltool.data.computed_orders import Order
from ssltool.data.images import ImageSet
from ssltool.data.manifest import Manifest
from ssltool.data.shard_stream import ShardStream
from ssltool.errors import SSLToolError
from ssltool.files.integrity import check_written
from ssltool.files.reading import read_json
from ssltool.files.schema import conform
from ssltool.files.stored import Stored
from ssltool.files.writing import copy_atomically, to_json, write_atomically, write_json, write_text, writing
from ssltool.runs.lock import RunLock
from ssltool.runs.progress_file import NAME as PROGRESS
from ssltool.runs.progress_file import ProgressFile
from ssltool.runs.records import read_records
from ssltool.settings import Record, Settings
from ssltool.training import distributed

NEWEST = "checkpoint.pt"
SHARDS = "shards.json"
NUMBERED = re.compile("checkpoint_([0-9]{4,})[.]pt")
IMAGES, VAL_IMAGES = "images.jsonl", "val_images.jsonl"
PROBE = "probe.pt"
STAGE_FILES = {
    "pretrain": ("config.json", "metrics.jsonl", PROGRESS, IMAGES, "order.npy", "checkpoint*.pt", ".*.tmp"),
    "lincls": ("config.json", "metrics.jsonl", IMAGES, VAL_IMAGES, "probe.pt", ".*.tmp"),
    "finetune": ("config.json", "metrics.jsonl", IMAGES, VAL_IMAGES, "finetuned*.pt", ".*.tmp"),
    "scan": (
        *("config.json", "metrics.jsonl", IMAGES, VAL_IMAGES, "neighbours.pt", "clusters.pt", "selflabelled.pt"),
        *("training_*.pt", "assignments_*.pt", ".*.tmp"),
    ),
}
"""Patterns of the files that each stage writes into its run folder, and may replace there."""

DESCRIPTION = ("config.json", "metrics.jsonl", IMAGES, VAL_IMAGES, "order.npy")
"""The files that describe a run, which a resumed run writes again."""

REPLACED = ".replaced"
"""The folder of the results that a run replaces, until it has its own."""

DESCRIBED = ".described"
"""The folder of copies of what describes a run that is resumed, until that has its next result."""

RECORD_KEYS = ("arm", "seed", "phase", "epoch")
"""Keys that identify a record among those of a run; a record has some of them."""

RESULT_FILES = {"pretrain": "checkpoint*.pt", "lincls": "probe.pt", "finetune": "finetuned*.pt", "scan": "clusters.pt"}
"""Patterns of the results of each stage. They show which stage wrote a folder."""


class RunFolder:
    """The folder of one run of a stage. A stage writes to it while it holds its lock, and nothing before ``claim``.

    Of several ranks, all call the methods that write; rank 0 alone does it, and all of them raise its errors.

    ``is_new``: the folder was created for this run, by ``with_number``, and is removed if the run fails.
    """

    def __init__(self, path: Path, stage: str = "pretrain", *, is_new: bool = False) -> None:
        self.path, self.is_new = path, is_new
        self.stage = stage
        self.newest = path / NEWEST
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self._lock: RunLock | None = None
        self._replaces: tuple[str, ...] = ()
        self._moved = self._until_done = self._has_written = False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Context manager that holds the lock of the folder, which it creates. No other process can then start or
        resume a run there.

        A run that fails before its first result, or before it is done if it was claimed so, removes its files, and what
        it replaced is restored. A resumed run that fails before its next result leaves its settings and records as they
        were.

        Raises:
            SSLToolError: if a living process holds the lock, or the folder cannot be written; and by each method that
                writes if the folder was moved or the lock lost.
        """
        with contextlib.ExitStack() as stack:
            with distributed.raise_on_all_ranks():
                if distributed.is_main():
                    stack.enter_context(self._locked())
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._check_is_folder()
        target = Path(os.path.realpath(self.path))  # the path may be a link to a folder that does not exist yet
        created = [target] if self.is_new else []
        created += [path for path in (target, *target.parents) if not path.exists()]
        with writing(self.path):
            target.mkdir(parents=True, exist_ok=True)
        try:
            with RunLock(self.path) as self._lock:
                try:
                    yield
                except BaseException as error:
                    if not self._lock.is_held():
                        created.clear()  # the folder that is there now is not ours
                    elif self._has_written and _is_resumed_after(error):
                        shutil.rmtree(self.path / DESCRIBED, ignore_errors=True)
                    else:
                        self._take_back()
                    raise
                self._is_done()
        finally:
            self._lock, self._replaces, self._has_written = None, (), False
            for path in created:
                with contextlib.suppress(OSError):  # it is not empty
                    path.rmdir()

    def _check_is_folder(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise SSLToolError(f"{self.path} is a file; name a folder with --out")

    def refuse_if_taken(self, *, overwrite: bool, resume: str | None = None, resumed_from: Path | None = None) -> None:
        """Checks that the folder is free, or that this run resumes from a checkpoint in it.

        A run that was killed before its first checkpoint left only settings; ``--resume`` may start it again. The
        results of another stage are never replaced.

        Raises:
            SSLToolError: if it contains another run, or is not a folder.
        """
        self._check_is_folder()
        for stage, results in RESULT_FILES.items():
            if stage != self.stage and any(self.path.glob(results)):
                raise SSLToolError(f"{self.path} contains the results of {stage}; choose another folder with --out")
        resumes = self._contains(resumed_from)
        if resumes and overwrite:
            raise SSLToolError(f"--overwrite contradicts --resume from {resumed_from}; leave one of them out")
        may_restart = resume is not None and not any(self.path.glob(RESULT_FILES[self.stage]))
        if self.is_started() and not (resumes or overwrite or may_restart):
            raise SSLToolError(
                f"{self.path} already contains a run; resume it (--resume auto), replace it (--overwrite), "
                "or choose another folder (--out, --exp-name, --exp-id)"
            )

    def is_started(self) -> bool:
        """Whether the folder contains files of a run of this stage."""
        return bool(self._own_files())

    def _contains(self, checkpoint: Path | None) -> bool:
        return checkpoint is not None and checkpoint.parent.resolve() == self.path.resolve()

    def _own_files(self) -> list[Path]:
        return self._files(STAGE_FILES[self.stage])

    def _files(self, patterns: Sequence[str]) -> list[Path]:
        return [path for pattern in patterns for path in self.path.glob(pattern)]

    @distributed.by_rank_zero
    def claim(
        self,
        settings: Settings,
        history: Sequence[Record] = (),
        *,
        resumed_from: Path | None = None,
        replaced: Sequence[str] = (),
        until_done: bool = False,
    ) -> None:
        """Starts this run in the folder: writes its settings and the records of the completed epochs.

        The files of an earlier run are replaced, unless this run resumes from a checkpoint in the folder; then only the
        files ``replaced`` are. They are kept until the first result of this run, or with ``until_done`` until it ends.

        Raises:
            SSLToolError: if the folder cannot be written.
        """
        self._check_lock()
        resumes = self._contains(resumed_from)
        timed = {_record_key(record): record for record in self.read_metrics()} if resumes else {}
        with writing(self.path):
            for path in self._own_files():
                if path.suffix == ".tmp":  # left by a save that was killed
                    path.unlink(missing_ok=True)
            self._set_aside(replaced if resumes else STAGE_FILES[self.stage])
        self._until_done, self._has_written = until_done, False
        write_json(self.config, settings)
        lines = [to_json(timed.get(_record_key(record), record)) + "\n" for record in history]
        write_text(self.metrics, "".join(lines))
        if self._lock is None:
            self._is_done()

    def _set_aside(self, replaced: Sequence[str]) -> None:
        """Keeps what this run replaces: the files ``replaced``, and copies of the others that describe the run.

        A process that was killed while it replaced files has left them aside. They stay there, and its own are removed.
        Of a symbolic link, the file that it leads to is set aside; results are then written through the link.
        """
        aside, copies = self.path / REPLACED, self.path / DESCRIBED
        shutil.rmtree(copies, ignore_errors=True)
        self._replaces, self._moved = (*replaced, *DESCRIPTION), False
        for path in self._files(replaced):
            self._moved = True
            aside.mkdir(exist_ok=True)
            target = Path(os.path.realpath(path))
            if (aside / path.name).exists():
                target.unlink(missing_ok=True)
            elif target.exists():
                shutil.move(target, aside / path.name)
        for path in self._files(DESCRIPTION):
            copies.mkdir(exist_ok=True)
            shutil.copy2(path, copies)

    def _has_result(self) -> None:
        """Removes what this run has replaced, unless that is kept until it is done."""
        self._has_written = True
        if self._replaces and not (self._moved and self._until_done):
            shutil.rmtree(self.path / DESCRIBED, ignore_errors=True)
            if not self._until_done:
                shutil.rmtree(self.path / REPLACED, ignore_errors=True)
            self._replaces = ()

    def _is_done(self) -> None:
        """Removes what this run has replaced, also if there was nothing left to do."""
        for name in (REPLACED, DESCRIBED):
            shutil.rmtree(self.path / name, ignore_errors=True)
        self._replaces = ()

    def _take_back(self) -> None:
        """Removes what this run has written if it has no result, and restores what it has replaced."""
        if not self._replaces:
            return
        kept = [path for name in (REPLACED, DESCRIBED) for path in (self.path / name).glob("*")]
        kept = [path for path in kept if self._moved or path.parent.name == DESCRIBED]
        names = {path.name for path in kept}
        with contextlib.suppress(OSError):  # the error that ended the run is the one to report
            for path in self._files(self._replaces):
                if path.name not in names and path.exists():
                    path.unlink(missing_ok=True)
            for path in kept:
                shutil.move(path, os.path.realpath(self.path / path.name))  # a link stays, as when it was written
            for folder in {path.parent for path in kept}:
                folder.rmdir()

    @contextlib.contextmanager
    def progress_file(self) -> Iterator[ProgressFile]:
        """The file that says how far the epoch is, which is removed at the end. For rank 0 alone."""
        file = ProgressFile(self.path, self._check_lock)
        file.remove()  # of a process that was killed
        try:
            yield file
        finally:
            file.remove()

    def _check_lock(self) -> None:
        if self._lock is not None:
            with writing(self.path):
                self._lock.check()

    def read_config(self) -> Settings:
        """The settings in ``config.json``.

        Raises:
            SSLToolError: if this is not a run folder, or the file is unreadable.
        """
        file = self.config
        if not file.is_file():
            raise SSLToolError(f"{self.path} is not a run folder: it has no config.json; name a folder of a run")
        settings: Settings = conform(read_json(file), SETTINGS, file)
        return settings

    def read_metrics(self) -> list[Record]:
        """The records of ``metrics.jsonl``, one per epoch; raises as ``read_records``."""
        return read_records(self.metrics)

    @distributed.by_rank_zero
    def log(self, record: Record) -> None:
        """Appends one record to ``metrics.jsonl``."""
        self.append(record)

    def append(self, record: Record) -> None:
        """``log`` for rank 0 alone."""
        self._check_lock()
        with writing(self.metrics), open(self.metrics, "a", encoding="utf-8") as stream:
            stream.write(to_json(record) + "\n")
        self._has_result()

    @distributed.by_rank_zero
    def write(self, contents: Stored, path: Path) -> None:
        """Writes a result of the run to ``path`` in this folder.

        Raises:
            SSLToolError: if it cannot be written; the previous file is kept.
        """
        self._write(contents, path)

    @distributed.by_rank_zero
    def remove(self, path: Path) -> None:
        """Removes the file ``path`` in this folder, if there is one."""
        path.unlink(missing_ok=True)

    def _write(self, contents: Stored, path: Path) -> None:
        self._check_lock()
        contents.save(path)
        self._has_result()

    @distributed.by_rank_zero
    def save_order(self, order: Order) -> None:
        """Writes the order of the data, (N,) image numbers, to ``order.npy``, unless it is computed."""
        self._check_lock()
        if isinstance(order, np.ndarray):
            write_atomically(self.path / "order.npy", lambda stream: np.save(stream, order))

    def save_counts(self, images: ImageSet, row: int) -> None:
        """Writes the number of images of each shard that begins before ``row`` of a stream to ``shards.json``, so that
        a resumed run does not count them again. For rank 0 alone, as ``save``."""
        self._check_lock()
        if isinstance(images.paths, ShardStream):
            write_json(self.path / SHARDS, images.paths.count_until(row))

    @distributed.by_rank_zero
    def save_images(self, train: ImageSet, val: ImageSet | None = None) -> None:
        """Writes the paths and the hashes of the training images to ``images.jsonl``, and those of the val images, if
        the run reads any, to ``val_images.jsonl``. A stream has no list."""
        self._check_lock()
        if isinstance(train.paths, ShardStream):
            return
        Manifest.of(train).save(self.path / IMAGES)
        if val is not None:
            Manifest.of(val).save(self.path / VAL_IMAGES)

    def save(self, checkpoint: Checkpoint, *, keep_epoch: int | None = None, keep: int | None = None) -> None:
        """Writes ``checkpoint`` to ``checkpoint.pt``, and with ``keep_epoch`` (from 0) also to that epoch's file.

        With ``keep``, at least 1, only that many files of epochs up to ``keep_epoch`` stay, the newest ones.

        Raises:
            SSLToolError: if it cannot be written; the previous files are kept.
        """
        if keep_epoch is None:
            self._write(checkpoint, self.newest)
            return
        kept = self.path / f"checkpoint_{keep_epoch:04d}.pt"
        self._write(checkpoint, kept)
        copy_atomically(kept, self.newest, check_written)
        earlier = [file for epoch, file in self.kept().items() if epoch <= keep_epoch]
        for file in earlier[:-keep] if keep is not None else ():
            with writing(file):
                file.unlink()

    def kept(self) -> dict[int, Path]:
        """The files of single epochs by their number from 0, in order."""
        found = (NUMBERED.fullmatch(path.name) for path in self.path.glob("checkpoint_*.pt"))
        return {number: self.path / name for number, name in sorted((int(m[1]), m[0]) for m in found if m)}


def _is_resumed_after(error: BaseException) -> bool:
    """Whether a run that ``error`` ended is to be resumed from what it has saved; other errors would come again."""
    return not isinstance(error, SSLToolError) or error.resumable


def _record_key(record: Record) -> tuple[object, ...]:
    return tuple(record.get(name) for name in RECORD_KEYS)
