"""A run that is watched: its settings, its last record, and whether it still trains."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

from ssltool.checkpoints.setting_names import MONITOR, stage_of
from ssltool.config.fields import LAYERS
from ssltool.files.reading import parse_json
from ssltool.files.text import one_line
from ssltool.files.writing import to_json
from ssltool.runs.lock import is_held
from ssltool.runs.progress_file import NAME as PROGRESS
from ssltool.settings import Record, Settings
from ssltool.stages.watch.decimated import MOST_KEYS
from ssltool.stages.watch.follow import Follower, finite_number, opened, position, unit_of, verdict_of
from ssltool.viz.curve_list import LOSS, curves_of_layers, layers_of

LARGEST_CONFIG = 1 << 22
"""Bytes of the largest settings that are read."""

LARGEST_PROGRESS = 1 << 12
"""Bytes of the largest file about the progress within an epoch that is read."""

QUIET = 600.0
"""Seconds without a new look after which the training that a monitor watches may have ended."""

RUNNING, FINISHED, STOPPED, DEAD, NO_NEWS = "running", "finished", "stopped", "dead", "no news"
"""Whether a run trains: it does; it is done; it stopped before its last epoch; its process died; or it is not known,
and there was no record for ``QUIET`` seconds."""

OTHER_CURVES = ("lr", "images_per_second")
"""Curves that the page draws beside those of a report."""

Signature = tuple[int, int, int] | None


class WatchedRun:
    """The run in the folder ``path``. Its files are looked at by ``refresh`` and read by ``follower``.

    Attributes:
        id: a name for addresses, the same for the same folder.
        name: a short name that differs from those of the other runs.
        since: the state of its settings' file; another one is another run.
        measured: what was measured of its checkpoints, by epoch or step.
        row: what is known of it, for the table.
        curves: its curves as JSON, as far as they are read; empty before the first record.
        layers: the layers that it measures, with their line styles.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        self.id = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
        self.name = path.name
        self.is_monitored = stage_of(settings) == MONITOR
        self.follower: Follower = Follower(path / "metrics.jsonl")
        self._reads = threading.Lock()
        self.row: Record = {}
        self.since = signature(path / "config.json")
        self.measured: dict[int, Record] = {}
        self.curves = ""
        self.layers: dict[str, str] = {}
        self._sent = 0
        self._seen: Signature = (0, 0, 0)
        self._last: Record = {}
        self._judged: Record = {}

    def refresh(self, now: float | None = None) -> None:
        """Looks whether there are new records, and makes the ``row``."""
        seen = signature(self.follower.path)
        if seen != self._seen:
            self._last, self._judged = self.follower.last()
            self._seen = seen
        self.row = self._row(time.time() if now is None else now)

    def values(self) -> Record:
        """The finite numbers of the last record, and of the last one with a verdict what that lacks."""
        merged = self._judged | self._last
        known = {name: value for name, given in merged.items() if (value := finite_number(given)) is not None}
        return {one_line(name, 100): known[name] for name in list(known)[:MOST_KEYS]}

    def read(self, seconds: float) -> bool:
        """Reads records for about as long; whether all are read. False at once if another thread is reading."""
        if not self._reads.acquire(blocking=False):
            return False
        try:
            is_complete = self.follower.read(seconds)
            if self.follower.count != self._sent:
                self._sent = self.follower.count
                self.curves = self._curves()
            return is_complete
        finally:
            self._reads.release()

    def _curves(self) -> str:
        follower = self.follower
        layers = layers_of([[follower.curves.low]])
        names = [name for curve in (LOSS, *curves_of_layers(layers)) for name, _ in curve.keys]
        has_layers = any(name in follower.curves.low for name in names if name != LOSS.keys[0][0])
        self.layers = layers if has_layers else {}
        found = {"id": self.id, "unit": follower.unit, "count": follower.count, "malformed": follower.malformed}
        found |= {"verdicts": follower.verdicts.starts}
        return to_json(found | follower.curves.as_dict([*dict.fromkeys([*names, *OTHER_CURVES])]))

    def _row(self, now: float) -> Record:
        last, judged = self._last, self._judged
        unit = unit_of(last) if last else "step" if self.is_monitored else "epoch"
        at, of = (position(last, unit) if last else 0), finite_number(self.settings.get("epochs"))
        changed = self._seen[1] / 1e9 if self._seen else 0.0
        state = self._state(at or 0, of, now - changed)
        each = sum(finite_number(last.get(key)) or 0.0 for key in ("seconds", "monitor_seconds"))
        left = None if of is None or state != RUNNING or not each else max(0.0, of - (at or 0)) * each
        within = self._within(at or 0) if state == RUNNING and not self.is_monitored else None
        values = self.values()
        if within:
            changed, left = within["changed"], within["left"]
            values |= within["values"]
        return {
            "id": self.id,
            "name": one_line(self.name, 200),
            "path": one_line(self.path),
            "monitor": self.is_monitored,
            "layer": one_line(self._first_layer(), 200),
            "state": state,
            "unit": unit,
            "at": at,
            "within": within["part"] if within else 0.0,
            "of": None if self.is_monitored else of,
            "ends": None if left is None else round(changed + left),
            "changed": round(changed),
            "size": self._seen[2] if self._seen else 0,
            "verdict": verdict_of(judged),
            "judged": position(judged, unit) if judged else None,
            "unjudged": "verdict" in judged and judged["verdict"] is None,
            "kinds": one_line(judged.get("kinds") or "", 200),
            "diverged": "loss" in last and finite_number(last["loss"]) is None,
            "values": values,
        }

    def _within(self, at: float) -> Record | None:
        """What the run says of the epoch that it is in, the one after ``at``; None if it says nothing."""
        found, changed = small_json(self.path / PROGRESS, LARGEST_PROGRESS)
        if not isinstance(found, dict):
            return None
        epoch, step, steps, left = (
            finite_number(found.get(k)) for k in ("epoch", "epoch_step", "steps", "seconds_left")
        )
        if epoch != at or step is None or not steps or not 0 <= step <= steps or left is None:
            return None
        known = {name: finite_number(found.get(name)) for name in ("loss", "images_per_second")}
        values = {name: value for name, value in known.items() if value is not None}
        return {"part": step / steps, "left": left, "changed": changed, "values": values}

    def _first_layer(self) -> object:
        layers = self.settings.get("layers") if self.is_monitored else None
        return layers[0] if isinstance(layers, list) and layers else LAYERS[0]

    def _state(self, at: float, of: float | None, silent: float) -> str:
        if self.is_monitored:
            return RUNNING if silent < QUIET else NO_NEWS
        held = is_held(self.path)
        if held:
            return RUNNING
        if of is not None and at >= of:
            return FINISHED
        return STOPPED if held is None else DEAD


def read_settings(folder: Path) -> Settings | None:
    """The settings of a run of pretrain, or of the folder of a monitor; None if ``folder`` is neither."""
    settings, _ = small_json(folder / "config.json", LARGEST_CONFIG)
    if not isinstance(settings, dict) or not isinstance(settings.get("method_options", {}), dict):
        return None
    is_ours = "layers" in settings if stage_of(settings) == MONITOR else {"method", "arch"} <= settings.keys()
    return settings if is_ours and stage_of(settings) in ("pretrain", MONITOR) else None


def small_json(path: Path, largest: int) -> tuple[Any, float]:
    """The JSON in a file of at most ``largest`` bytes, and when the file last changed; (None, 0) if there is none."""
    with contextlib.suppress(OSError, ValueError), opened(path) as (file, status):
        if status.st_size <= largest:
            return parse_json(os.pread(file, largest, 0).decode()), status.st_mtime
    return None, 0.0


def signature(path: Path) -> Signature:
    """What changes if a file does: its inode, the time of its last change in ns, and its size; None without it."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
