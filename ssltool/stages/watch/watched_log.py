"""The log of another program's training, as ``diagnose`` reads it, among the runs that are watched."""

from __future__ import annotations

import math
from pathlib import Path

from ssltool.errors import SSLToolError
from ssltool.settings import Record
from ssltool.stages.diagnose.log_formats import read_log
from ssltool.stages.diagnose.log_formats.log_file import LogFile
from ssltool.stages.diagnose.series import Series
from ssltool.stages.watch.follow import Follower
from ssltool.stages.watch.watched_run import NO_NEWS, QUIET, RUNNING, Signature, WatchedRun, signature


class LogFollower(Follower):
    """The loss and the learning rate in a log, which is read whole whenever it has changed.

    Raises:
        SSLToolError: if it is no log that ssltool knows.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._changed: Signature = signature(path)
        self._fill(read_log(LogFile(path)))

    def last(self) -> tuple[Record, Record]:
        """The last values, at a step; a log has no verdict."""
        self.read(0)
        return self._last, {}

    def read(self, seconds: float) -> bool:
        """Reads the log again if it has changed. While it cannot be read, the earlier values stay."""
        if (changed := signature(self.path)) != self._changed:
            self._changed = changed
            try:
                self._fill(read_log(LogFile(self.path)))
            except SSLToolError:  # such as one that is being replaced; it is read again after its next change
                self.malformed += 1
        return True

    def _fill(self, series: Series) -> None:
        self._restart(None)
        self.unit, self.program = series.unit, series.program
        found: dict[float, Record] = {}
        for name, curve in (("loss", series.loss), ("lr", series.rate)):
            if curve is not None:
                for x, value in zip(curve.at.tolist(), curve.values.tolist(), strict=True):
                    found.setdefault(x, {})[name] = value
        places = sorted(found)
        self.count = len(places)
        self.curves.extend(places, [found[x] for x in places])
        self._last = {"step": math.floor(places[-1]), **found[places[-1]]} if places else {}


class WatchedLog(WatchedRun):
    """The training of another program whose log is the file ``path``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, {})
        self.log = LogFollower(path)
        self.follower = self.log
        self.settings = {"program": self.log.program}
        self.is_monitored = True

    def _row(self, now: float) -> Record:
        return super()._row(now) | {"unit": self.log.unit, "log": True}

    def _state(self, at: float, of: float | None, silent: float) -> str:
        return RUNNING if silent < QUIET else NO_NEWS
