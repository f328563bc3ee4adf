"""Run folders: where a training stage keeps its settings, its metrics and its checkpoints.

config.json  metrics.jsonl  order.npy  checkpoint_0009.pt ...  checkpoint.pt (the newest)
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.config import RunSettings
from ssltool.errors import SSLToolError, first_line
from ssltool.files import Record, Settings, to_json, write_atomically, write_json, writing

NEWEST = "checkpoint.pt"
PROBE = "probe.pt"
STAGE_FILES = {
    "pretrain": ("config.json", "metrics.jsonl", "order.npy", "checkpoint*.pt", ".*.tmp"),
    "lincls": ("config.json", "metrics.jsonl", "probe.pt", ".*.tmp"),
    "finetune": ("config.json", "metrics.jsonl", "finetuned*.pt", ".*.tmp"),
    "scan": (
        *("config.json", "metrics.jsonl", "neighbours.pt", "clusters.pt", "selflabelled.pt"),
        *("training_*.pt", "assignments_*.pt", ".*.tmp"),
    ),
}
"""What each stage writes into its run folder, as patterns, and so may replace there."""

RECORD_KEYS = ("arm", "seed", "phase", "epoch")
"""What tells the records of one run from one another, where they have it."""

RESULT_FILES = {"pretrain": "checkpoint*.pt", "lincls": "probe.pt", "finetune": "finetuned*.pt", "scan": "clusters.pt"}
"""What tells whose folder it is, and is lost if it is replaced."""


def run_path(settings: RunSettings, default_name: str) -> Path:
    """``--out``, or ``logs/<exp_name>_<exp_id, 4 digits>``."""
    if settings.out is not None:
        return Path(settings.out)
    return Path("logs") / f"{settings.exp_name or default_name}_{settings.exp_id:04d}"


class RunFolder:
    """One run's folder, for one stage. Nothing is touched before ``claim``."""

    def __init__(self, path: Path, stage: str = "pretrain") -> None:
        self.path = path
        self.stage = stage
        self.newest = path / NEWEST
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"

    def refuse_if_taken(self, *, overwrite: bool, resume: str | None = None, resumed_from: Path | None = None) -> None:
        """Checks that the folder is free, or that this run goes on from a checkpoint in it.

        A run that was killed before its first checkpoint left settings only; ``--resume`` may start it again. Another
        stage's results are never replaced.

        Raises:
            SSLToolError: if it holds another run, or is no folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise SSLToolError(f"{self.path} is a file; name a folder with --out")
        for stage, results in RESULT_FILES.items():
            if stage != self.stage and any(self.path.glob(results)):
                raise SSLToolError(f"{self.path} holds the results of {stage}; choose another folder with --out")
        continues = self._holds(resumed_from)
        if continues and overwrite:
            raise SSLToolError(f"--overwrite and going on from {resumed_from} contradict each other; drop one")
        begun = any(self._own_files())
        may_restart = resume is not None and not any(self.path.glob(RESULT_FILES[self.stage]))
        if begun and not (continues or overwrite or may_restart):
            raise SSLToolError(
                f"{self.path} already holds a run; go on with it (--resume auto), replace it (--overwrite), "
                "or choose another folder (--out, --exp-name, --exp-id)"
            )

    def _holds(self, checkpoint: Path | None) -> bool:
        return checkpoint is not None and checkpoint.resolve().parent == self.path.resolve()

    def _own_files(self) -> list[Path]:
        return [path for pattern in STAGE_FILES[self.stage] for path in self.path.glob(pattern)]

    def claim(self, settings: Settings, history: Sequence[Record] = (), *, resumed_from: Path | None = None) -> None:
        """Makes the folder this run's: removes what an earlier one left unless this goes on from it, writes the
        settings and the records of the epochs that are already done.

        Raises:
            SSLToolError: if it cannot be written.
        """
        timed = {_record_key(record): record for record in self.read_metrics()} if self._holds(resumed_from) else {}
        with writing(self.path):
            for path in self._own_files():
                if not self._holds(resumed_from) or path.suffix == ".tmp":  # left by a save that was killed
                    path.unlink(missing_ok=True)
        write_json(self.config, settings)
        lines = [to_json(timed.get(_record_key(record), record)) + "\n" for record in history]
        write_atomically(self.metrics, lambda stream: stream.write("".join(lines).encode()))

    def read_config(self) -> Settings:
        """The settings in ``config.json``.

        Raises:
            SSLToolError: if this is no run folder, or the file is cut short.
        """
        file = self.config
        if not file.is_file():
            raise SSLToolError(f"{self.path} is no run folder: it has no config.json; name a folder that a run wrote")
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SSLToolError(f"{file} is no readable JSON ({first_line(error)}); copy it again") from error
        if not isinstance(config, dict):
            raise SSLToolError(f"{file} holds no settings; name a folder that a run wrote")
        return config

    def read_metrics(self) -> list[Record]:
        """The records of ``metrics.jsonl``, one per epoch."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text().splitlines() if line.endswith("}")]

    def log(self, record: Record) -> None:
        """Appends one record to ``metrics.jsonl``."""
        with writing(self.metrics), open(self.metrics, "a") as stream:
            stream.write(to_json(record) + "\n")

    def save_order(self, order: np.ndarray) -> None:
        """Keeps the order in which the data arrived."""
        write_atomically(self.path / "order.npy", lambda stream: np.save(stream, order))

    def save(self, checkpoint: Checkpoint, *, keep_epoch: int | None = None) -> Path:
        """Makes ``checkpoint`` the newest, and with ``keep_epoch`` (from 0) also keeps it as that epoch's.

        Raises:
            SSLToolError: if it cannot be written; the previous ones are kept.
        """
        if keep_epoch is None:
            checkpoint.save(self.newest)
            return self.newest
        kept = self.path / f"checkpoint_{keep_epoch:04d}.pt"
        checkpoint.save(kept)
        link = self.path / f".{NEWEST}.link.tmp"
        with writing(self.newest):
            link.unlink(missing_ok=True)
            try:
                os.link(kept, link)
            except OSError:  # a file system without hard links
                shutil.copyfile(kept, link)
            os.replace(link, self.newest)
        return kept


def _record_key(record: Record) -> tuple[object, ...]:
    return tuple(record.get(name) for name in RECORD_KEYS)
