"""The verdict: healthy, partial collapse or complete collapse, from three metrics.

No single metric detects all kinds of collapse. Nearly constant outputs can have a flat spectrum after centring;
``feature_std`` detects them. Outputs in a few dimensions can be isotropic within these dimensions; the spectrum detects
them. ``effective_rank`` measures the dimensions in use and ``dead_directions`` the dimensions lost. The thresholds are
calibrated on networks that are known to be healthy or collapsed; docs/collapse.md has the numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ssltool.config.fields import STATES
from ssltool.diagnosis.measure import Measured
from ssltool.diagnosis.spectrum import possible_directions
from ssltool.errors import UsageError, unknown


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the verdict. ``complete_*`` are checked before ``partial_*``; otherwise the verdict is healthy.

    ``*_std`` are values of ``feature_std``. ``complete_rank`` is an effective rank, and ``partial_rank`` an effective
    rank as a fraction of the dimensions. ``partial_dead`` is a fraction of dead directions. ``embedding_rank`` and
    ``embedding_dead`` replace the latter two for projector and predictor, which lose directions in healthy networks
    too. ``like_rank`` is an effective rank as a fraction of that of a reference run.
    """

    complete_std: float = 0.05
    complete_rank: float = 1.2
    partial_std: float = 0.2
    partial_rank: float = 0.1
    partial_dead: float = 0.15
    embedding_rank: float = 0.05
    embedding_dead: float = 0.5
    like_rank: float = 0.5

    @classmethod
    def parse(cls, assignments: Iterable[str]) -> Thresholds:
        """The default thresholds, overridden by ``NAME=VALUE`` assignments.

        Raises:
            SSLToolError: for an unknown name, or a value that is not a number of at least 0.
        """
        names, changed = {f.name for f in dataclasses.fields(cls)}, {}
        for text in assignments:
            name, _, value = text.partition("=")
            if name not in names:
                raise unknown("threshold", name, names)
            try:
                changed[name] = float(value)
            except ValueError as error:
                raise UsageError(f"--threshold {text}: the value must be a number, such as {name}=0.1") from error
            if not changed[name] >= 0:
                raise UsageError(f"--threshold {text}: the value must be at least 0")
        return cls(**changed)


DEFAULT = Thresholds()

NEEDED = ("auc", "effective_rank", "dead_directions", "feature_std")
"""The metrics that a verdict requires. The AUC is reported only: it shows how far the spectrum is from flat."""


@dataclass(frozen=True)
class Verdict:
    """``state`` is one of ``STATES``, ``line`` is a one-line summary, ``why`` lists the exceeded thresholds."""

    state: str
    line: str
    why: list[str]
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def severity(self) -> int:
        """0 healthy, 1 partial, 2 complete."""
        return STATES.index(self.state)


def judge(
    metrics: Mapping[str, float],
    *,
    n: int,
    d: int,
    bound: int | None = None,
    layer: str = "backbone",
    dead: int = 0,
    thresholds: Thresholds = DEFAULT,
) -> Verdict:
    """The verdict on n rows of width d, outputs of ``layer``, from ``metrics`` (at least ``NEEDED``).

    ``bound`` is the largest possible rank of the layer. All fractions refer to the directions that the layer can have,
    ``possible_directions``, as do the ``metrics`` that ``measure`` computes with this bound. ``dead`` is the number of
    dead dimensions. The details hold the dimensions in use (the effective rank) and their fraction, the dead directions
    and dimensions, and the difference of the AUC to that of a flat spectrum.
    """
    t = thresholds
    fewest, most = (t.partial_rank, t.partial_dead) if layer == "backbone" else (t.embedding_rank, t.embedding_dead)
    count = possible_directions(n, d, bound)
    std, rank, lost, area = (metrics[name] for name in ("feature_std", "effective_rank", "dead_directions", "auc"))
    complete = [
        (std < t.complete_std, f"feature_std is below {t.complete_std:g}"),
        (rank < t.complete_rank and count > 2, f"effective rank is below {t.complete_rank:g}"),
    ]
    partial = [
        (std < t.partial_std, f"feature_std is below {t.partial_std:g}"),
        (rank < fewest * count, f"{rank / count:.1%} of the dimensions are in use, below {fewest:.0%}"),
        (lost > most, f"{lost:.1%} of the directions are dead, above {most:.0%}"),
    ]
    why = [text for crossed, text in complete if crossed]
    state = STATES[2] if why else STATES[0]
    if not why:
        why = [text for crossed, text in partial if crossed]
        state = STATES[1] if why else STATES[0]
    flat = (count + 1) / (2 * count)
    size = f"{rank:.3g}" if rank < 999.5 else f"{rank:.0f}"
    line = f"{_title(state)}: feature_std {std:.3g}, effective rank {size} of {count}, {lost:.0%} dead directions"
    if why:
        line += f" ({' and '.join(why)}); AUC {area:.3f} (flat spectrum: {flat:.3f})"
        line += f"; dead dimensions: {dead} of {d}" if dead else ""
    details = {
        "dimensions": count,
        "used": rank,
        "used_share": rank / count,
        "dead_directions": lost,
        "dead_dimensions": dead,
        "auc_above_flat": area - flat,
    }
    return Verdict(state, line, why, details)


def judge_measured(measured: Measured, meta: Mapping[str, Any], thresholds: Thresholds = DEFAULT) -> Verdict:
    """The verdict on measured representations, with the ``layer`` from the metadata of their file."""
    return judge(
        measured.metrics,
        n=measured.n,
        d=measured.d,
        bound=measured.bound,
        layer=meta.get("layer", "backbone"),
        dead=len(measured.dead),
        thresholds=thresholds,
    )


def compare(
    verdict: Verdict,
    metrics: Mapping[str, float],
    reference: Mapping[str, float],
    name: str,
    thresholds: Thresholds = DEFAULT,
) -> Verdict:
    """``verdict`` compared with a reference run: at least partial if far fewer dimensions are in use."""
    ours, theirs = metrics["effective_rank"], reference["effective_rank"]
    text = f"dimensions in use: {ours:.3g} ({name}: {theirs:.3g})"
    if ours >= thresholds.like_rank * theirs:
        return dataclasses.replace(verdict, line=f"{verdict.line}; {text}")
    text += f", a ratio below {thresholds.like_rank:.0%}"
    state = max(verdict.state, STATES[1], key=STATES.index)
    line = verdict.line.replace(_title(verdict.state), _title(state), 1)
    return dataclasses.replace(verdict, state=state, line=f"{line}; {text}", why=[*verdict.why, text])


def _title(state: str) -> str:
    return state if state == STATES[0] else f"{state} collapse"
