"""Which checkpoint of a training to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssltool.config.fields import STATES
from ssltool.settings import Record


@dataclass(frozen=True)
class Candidate:
    """A checkpoint: its ``path``, its ``state`` (one of ``STATES``, None if it is not known), its kNN accuracy in
    [0, 1] if the images have labels, and its completed epochs or its step."""

    path: str
    state: str | None
    knn: float | None = None
    epoch: int | None = None
    step: int | None = None


def choose(candidates: Sequence[Candidate], what: str = "checkpoints") -> Record:
    """The checkpoint to keep: of the least collapsed ones that with the highest kNN accuracy, or without labels the
    last.

    A metric without labels shows which of several networks has collapsed, not which of the healthy ones is best.
    ``what`` is the name of the candidates.

    Returns:
        {"path", "epoch", "step", "why"}; "path" is None if no candidate is better than completely collapsed.
    """
    judged = [one for one in candidates if one.state is not None]
    severity = min((STATES.index(str(one.state)) for one in judged), default=len(STATES))
    if not judged:
        return _kept(None, f"none of the {what} was judged")
    if STATES[min(severity, 2)] == STATES[2]:
        return _kept(None, f"all {what} are completely collapsed")
    best = [one for one in judged if one.state == STATES[severity]]
    said = "healthy" if severity == 0 else "not completely collapsed"
    of = f"the {len(best)} of {len(judged)} {what} that are {said}"
    known = [one for one in best if one.knn is not None]
    if known:
        kept = max(known, key=lambda one: one.knn or 0.0)
        why = f"the highest kNN accuracy, {kept.knn:.1%}, of {of}"
    else:
        kept, why = best[-1], f"the last of {of}; labelled images would show which is best"
    return _kept(kept, why)


def _kept(kept: Candidate | None, why: str) -> Record:
    if kept is None:
        return {"path": None, "epoch": None, "step": None, "why": why}
    return {"path": kept.path, "epoch": kept.epoch, "step": kept.step, "why": why}
