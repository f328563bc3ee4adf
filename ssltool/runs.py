"""Run folders: where a training stage keeps its settings, its metrics and its checkpoints.

config.json  metrics.jsonl  order.npy  checkpoint_0009.pt ...  checkpoint.pt (the newest)
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ssltool.config import RunSettings
from ssltool.errors import SSLToolError
from ssltool.files import Checkpoint, write_atomically, write_json

NEWEST = "checkpoint.pt"
OURS = ("config.json", "metrics.jsonl", "order.npy", NEWEST, "probe.pt")


def run_path(settings: RunSettings, default_name: str) -> Path:
    """``--out``, or ``logs/<exp_name>_<exp_id, 4 digits>``."""
    if settings.out is not None:
        if settings.exp_name is not None or settings.exp_id != 0:
            raise SSLToolError("--out names the run folder and leaves --exp-name and --exp-id nothing to do; drop them")
        return Path(settings.out)
    return Path("logs") / f"{settings.exp_name or default_name}_{settings.exp_id:04d}"


class RunFolder:
    """One run's folder. Nothing is touched before ``claim``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.newest = path / NEWEST
        self.metrics = path / "metrics.jsonl"

    def refuse_if_taken(self, *, overwrite: bool, resume: str | None = None, resumed_from: Path | None = None) -> None:
        """Checks that the folder is free, or that this run goes on from a checkpoint in it.

        A run that was killed before its first checkpoint left settings only; ``--resume auto`` may start it again.

        Raises:
            SSLToolError: if it holds another run, or is no folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise SSLToolError(f"{self.path} is a file; name a folder with --out")
        continues = resumed_from is not None and resumed_from.resolve().parent == self.path.resolve()
        begun = any((self.path / name).exists() for name in OURS)
        kept = [*self.path.glob("checkpoint*.pt"), *self.path.glob("probe.pt")]
        if begun and not (continues or overwrite or (resume == "auto" and not kept)):
            raise SSLToolError(
                f"{self.path} already holds a run; go on with it (--resume auto), replace it (--overwrite), "
                "or choose another folder (--out, --exp-name, --exp-id)"
            )

    def claim(self, config: dict[str, Any], history: list[dict[str, Any]], *, fresh: bool) -> None:
        """Makes the folder this run's: removes what an earlier one left if ``fresh``, writes the settings and the
        records of the epochs that are already done."""
        if fresh:
            for name in OURS:
                (self.path / name).unlink(missing_ok=True)
            for old in self.path.glob("checkpoint_????.pt"):
                old.unlink()
        write_json(self.path / "config.json", config)
        timed = {} if fresh else {record["epoch"]: record for record in self.read_metrics()}
        lines = [json.dumps(timed.get(record["epoch"], record)) + "\n" for record in history]
        write_atomically(self.metrics, lambda stream: stream.write("".join(lines).encode()))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The records of ``metrics.jsonl``, one per epoch."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text().splitlines() if line.endswith("}")]

    def log(self, record: dict[str, Any]) -> None:
        """Appends one record to ``metrics.jsonl``."""
        try:
            with open(self.metrics, "a") as stream:
                stream.write(json.dumps(record) + "\n")
        except OSError as error:
            raise SSLToolError(f"cannot write {self.metrics}: {error.strerror}; free some space") from error

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
        link = self.path / f".{NEWEST}.link"
        link.unlink(missing_ok=True)
        try:
            os.link(kept, link)
        except OSError:  # a file system without hard links
            shutil.copyfile(kept, link)
        os.replace(link, self.newest)
        return kept
