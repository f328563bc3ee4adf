"""What ``diagnose`` found: the kind, since when, the evidence, the probable cause, and advice."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from ssltool.config.fields import STATES
from ssltool.settings import Record

NOTE, PARTIAL, COMPLETE = STATES
"""The severity of a finding: a note, which is no fault; a partial or a complete collapse, or failure, of training."""


@dataclass(frozen=True)
class Finding:
    """A finding.

    Attributes:
        kind: its kind, such as ``uniform-output``.
        state: its severity, one of ``STATES``.
        line: what was found, in words.
        since: the first step or epoch at which it holds.
        evidence: the numbers that it rests on.
        cause: the probable cause; empty if nothing is known.
        advice: what to change; empty if nothing is known.
        tested: on what the advice was tested; empty if it was not.
    """

    kind: str
    state: str
    line: str
    since: float | None = None
    evidence: dict[str, float | str] = field(default_factory=dict)
    cause: str = ""
    advice: str = ""
    tested: str = ""

    def as_dict(self) -> Record:
        """The finding as plain values."""
        return dataclasses.asdict(self)
