"""The file of ``--reference``, and whether it is the untrained network of another file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ssltool.diagnosis.kinds import ratios
from ssltool.diagnosis.measure import Measured
from ssltool.diagnosis.verdict import is_untrained
from ssltool.settings import Record


@dataclass(frozen=True)
class Reference:
    """The file to compare with: its ``meta`` and what was ``measured``."""

    meta: Record
    measured: Measured

    def lack(self, meta: Record) -> str:
        """Why it is not the untrained network of a file with ``meta``; empty if it is or may be."""
        if is_untrained(self.meta) is False:
            return f"it is of a trained network (epoch {self.meta.get('epoch')})"
        differing = [key for key in ("arch", "layer") if self.meta.get(key) != meta.get(key)]
        return "".join(f"its {key} is {self.meta.get(key)}, not {meta.get(key)}" for key in differing[:1])

    def numbers(self, metrics: Mapping[str, float], meta: Record) -> dict[str, float]:
        """What the kinds of collapse take of the untrained network, if it is that."""
        if self.lack(meta):
            return {}
        found = ratios(metrics, self.measured.metrics)
        if not is_untrained(self.meta):
            found.pop("std_ratio", None)  # both may have collapsed
        return found
