"""Run folders: where a training stage writes its settings, metrics and checkpoints.

config.json  metrics.jsonl  images.jsonl  order.npy  checkpoint_0009.pt ...  checkpoint.pt (the newest)
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.saved_run import SETTINGS
from ssltool.config import RunSettings
from ssltool.data.images import ImageSet
from ssltool.data.manifest import Manifest
from ssltool.errors import SSLToolError
from ssltool.files.reading import read_json
from ssltool.files.schema import conform
from ssltool.files.stored import Stored
from ssltool.files.writing import copy_atomically, to_json, write_atomically, write_json, write_text, writing
from ssltool.runs.lock import RunLock
from ssltool.runs.records import read_records
from ssltool.settings import Record, Settings

NEWEST = "checkpoint.pt"
IMAGES = "images.jsonl"
PROBE = "probe.pt"
STAGE_FILES = {
    "pretrain": ("config.json", "metrics.jsonl", IMAGES, "order.npy", "checkpoint*.pt", ".*.tmp"),
    "lincls": ("config.json", "metrics.jsonl", IMAGES, "probe.pt", ".*.tmp"),
    "finetune": ("config.json", "metrics.jsonl", IMAGES, "finetuned*.pt", ".*.tmp"),
    "scan": (
        *("config.json", "metrics.jsonl", IMAGES, "neighbours.pt", "clusters.pt", "selflabelled.pt"),
        *("training_*.pt", "assignments_*.pt", ".*.tmp"),
    ),
}
"""Patterns of the files that each stage writes into its run folder, and may replace there."""

DESCRIPTION = ("config.json", "metrics.jsonl", IMAGES, "order.npy")
"""The files that describe a run, which a resumed run writes again."""

REPLACED = ".replaced"
"""The folder of the files that a run replaces, until it has a result."""

RECORD_KEYS = ("arm", "seed", "phase", "epoch")
"""Keys that identify a record among those of a run; a record has some of them."""

RESULT_FILES = {"pretrain": "checkpoint*.pt", "lincls": "probe.pt", "finetune": "finetuned*.pt", "scan": "clusters.pt"}
"""Patterns of the results of each stage. They show which stage wrote a folder."""


def run_path(settings: RunSettings, default_name: str) -> Path:
    """``--out``, or ``logs/<exp_name>_<exp_id, 4 digits>``."""
    if settings.out is not None:
        return Path(settings.out)
    return Path("logs") / f"{settings.exp_name or default_name}_{settings.exp_id:04d}"


class RunFolder:
    """The folder of one run of a stage. A stage writes to it while it holds its lock, and nothing before ``claim``."""

    def __init__(self, path: Path, stage: str = "pretrain") -> None:
        self.path = path
        self.stage = stage
        self.newest = path / NEWEST
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self._lock: RunLock | None = None
        self._replaces: tuple[str, ...] = ()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Context manager that holds the lock of the folder, which it creates. No other process can then start or
        resume a run there.

        A run that fails before its first result removes its files, and what it replaced is restored. A resumed run that
        fails before its next result leaves its settings and records as they were.

        Raises:
            SSLToolError: if a living process holds the lock, or the folder cannot be written; and by each method that
                writes if the folder was moved or the lock lost.
        """
        self._check_is_folder()
        target = Path(os.path.realpath(self.path))  # the path may be a link to a folder that does not exist yet
        created = [path for path in (target, *target.parents) if not path.exists()]
        with writing(self.path):
            target.mkdir(parents=True, exist_ok=True)
        try:
            with RunLock(self.path) as self._lock:
                try:
                    yield
                except BaseException:
                    if self._lock.is_held():
                        self._take_back()
                    else:
                        created.clear()  # the folder that is there now is not ours
                    raise
                self._has_result()  # also if there was nothing left to do
        finally:
            self._lock, self._replaces = None, ()
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

    def claim(self, settings: Settings, history: Sequence[Record] = (), *, resumed_from: Path | None = None) -> None:
        """Starts this run in the folder: writes its settings and the records of the completed epochs.

        The files of an earlier run are replaced, unless this run resumes from a checkpoint in the folder.

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
            self._set_aside(resumes=resumes)
        write_json(self.config, settings)
        lines = [to_json(timed.get(_record_key(record), record)) + "\n" for record in history]
        write_text(self.metrics, "".join(lines))
        if self._lock is None:
            self._has_result()

    def _set_aside(self, *, resumes: bool) -> None:
        """Keeps what this run replaces until it has a result: all files of an earlier run, or a copy of what describes
        the run that it resumes."""
        aside = self.path / REPLACED
        shutil.rmtree(aside, ignore_errors=True)
        self._replaces = DESCRIPTION if resumes else STAGE_FILES[self.stage]
        for path in self._files(self._replaces):
            aside.mkdir(exist_ok=True)
            if resumes:
                shutil.copy2(path, aside)
            else:
                path.rename(aside / path.name)

    def _has_result(self) -> None:
        """Removes what this run has replaced."""
        if self._replaces:
            shutil.rmtree(self.path / REPLACED, ignore_errors=True)
            self._replaces = ()

    def _take_back(self) -> None:
        """Removes what this run has written if it has no result, and restores what it has replaced."""
        aside = self.path / REPLACED
        with contextlib.suppress(OSError):  # the error that ended the run is the one to report
            for path in self._files(self._replaces):
                if not (aside / path.name).exists():
                    path.unlink()
            for path in aside.glob("*") if self._replaces else ():
                shutil.move(path, os.path.realpath(self.path / path.name))  # a link stays, as when it was written
            if self._replaces and aside.exists():
                aside.rmdir()

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

    def log(self, record: Record) -> None:
        """Appends one record to ``metrics.jsonl``."""
        self._check_lock()
        with writing(self.metrics), open(self.metrics, "a", encoding="utf-8") as stream:
            stream.write(to_json(record) + "\n")
        self._has_result()

    def write(self, contents: Stored, path: Path) -> None:
        """Writes a result of the run to ``path`` in this folder.

        Raises:
            SSLToolError: if it cannot be written; the previous file is kept.
        """
        self._check_lock()
        contents.save(path)
        self._has_result()

    def save_order(self, order: np.ndarray) -> None:
        """Writes the order of the data, (N,) image numbers, to ``order.npy``."""
        self._check_lock()
        write_atomically(self.path / "order.npy", lambda stream: np.save(stream, order))

    def save_images(self, images: ImageSet) -> None:
        """Writes the paths and the hashes of the training images to ``images.jsonl``."""
        self._check_lock()
        Manifest.of(images).save(self.path / IMAGES)

    def save(self, checkpoint: Checkpoint, *, keep_epoch: int | None = None) -> Path:
        """Writes ``checkpoint`` to ``checkpoint.pt``, and with ``keep_epoch`` (from 0) also to that epoch's file.

        Raises:
            SSLToolError: if it cannot be written; the previous files are kept.
        """
        if keep_epoch is None:
            self.write(checkpoint, self.newest)
            return self.newest
        kept = self.path / f"checkpoint_{keep_epoch:04d}.pt"
        self.write(checkpoint, kept)
        copy_atomically(kept, self.newest)
        return kept


def _record_key(record: Record) -> tuple[object, ...]:
    return tuple(record.get(name) for name in RECORD_KEYS)
