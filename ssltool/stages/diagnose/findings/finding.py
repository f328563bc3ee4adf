"""What ``diagnose`` found: the kind, since when, the evidence, the probable cause, and advice."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from ssltool.config.fields import STATES
from ssltool.diagnosis.kinds import KINDS
from ssltool.settings import Record

NOTE, PARTIAL, COMPLETE = STATES
"""The severity of a finding: a note, which is no fault; a partial or a complete collapse, or failure, of training."""


SAME = KINDS["uniform-output"].sentence

SENTENCES = {
    **{name: kind.sentence for name, kind in KINDS.items()},
    **dict.fromkeys(("constant-output", "no-variance", "uncorrelated-views"), SAME),
    "complete-collapse": KINDS["complete"].sentence,
    "partial-collapse": KINDS["dimensional"].sentence,
    "nonfinite": "The training broke down: it computes values that are no numbers.",
    "divergence": "The training diverged: the loss grew instead of falling.",
    "zero-rate": "The network no longer learns: the learning rate is 0.",
    "unchanged-loss": "The loss does not change, so that nothing shows that the network learns.",
}
"""A plain sentence for each kind of fault, which needs none of the terms of the field."""


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
        kinds: the kinds of collapse that it shows, the main one first.
    """

    kind: str
    state: str
    line: str
    since: float | None = None
    evidence: dict[str, float | str] = field(default_factory=dict)
    cause: str = ""
    advice: str = ""
    tested: str = ""
    kinds: tuple[str, ...] = ()

    @property
    def named(self) -> tuple[str, ...]:
        """The kinds of collapse that it shows or is."""
        return self.kinds or ((self.kind,) if self.kind in KINDS else ())

    @property
    def sentence(self) -> str:
        """A plain sentence."""
        return SENTENCES.get(next(iter(self.kinds), self.kind), self.line)

    def as_dict(self) -> Record:
        """The finding as plain values."""
        return dataclasses.asdict(self) | {"kinds": list(self.named)}
