"""The verdict: healthy, partial or complete collapse, with the three numbers that decided it.

No single number sees every collapse. Outputs that are all nearly the same can have a flat spectrum once they are
centred, that of what little differs: ``feature_std`` sees it, the spectrum does not. Outputs in a few dimensions can be
spread evenly within these: the spectrum sees it, ``feature_std`` does not. Of the spectrum, ``effective_rank`` says how
many dimensions are in use and ``dead_directions`` how many are lost. The thresholds are calibrated on networks that are
known to be healthy or collapsed; docs/collapse.md has the numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ssltool.config.common import STATES
from ssltool.diagnosis.measure import Measured
from ssltool.errors import UsageError, unknown


@dataclass(frozen=True)
class Thresholds:
    """Where the verdict changes. ``complete_*`` are looked at first; what is on neither side is healthy.

    ``*_std`` are values of ``feature_std``; ``complete_rank`` is an effective rank, ``partial_rank`` one as a share of
    the dimensions there are; ``partial_dead`` a share of dead directions. ``embedding_*`` take their place behind the
    backbone, where a head loses directions also in a healthy network. ``like_rank`` is an effective rank as a share of
    that of another run.
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
        """The thresholds with some of them moved by ``NAME=VALUE``.

        Raises:
            SSLToolError: for a name that is none, or a value that is no number of at least 0.
        """
        names, changed = {f.name for f in dataclasses.fields(cls)}, {}
        for text in assignments:
            name, _, value = text.partition("=")
            if name not in names:
                raise unknown("threshold", name, names)
            try:
                changed[name] = float(value)
            except ValueError as error:
                raise UsageError(f"--threshold {text}: give a number, as in {name}=0.1") from error
            if not changed[name] >= 0:
                raise UsageError(f"--threshold {text}: a threshold is at least 0")
        return cls(**changed)


DEFAULT = Thresholds()

NEEDED = ("auc", "effective_rank", "dead_directions", "feature_std")
"""The metrics that a verdict looks at; the AUC decides nothing, but says how far a spectrum is from flat."""


@dataclass(frozen=True)
class Verdict:
    """``state`` is one of ``STATES``; ``line`` says so in one line; ``why`` names what crossed which threshold."""

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
    """The verdict on outputs of ``layer``, n rows of width d, with these ``metrics`` (at least ``NEEDED``).

    ``bound`` is the rank that the layer cannot exceed however healthy it is: 128 for a layer of 512 outputs and 128
    inputs. The values beyond it and beyond n - 1 are 0, and all shares are taken of the others. ``dead`` counts the
    dimensions that do not change. The details hold what a partial collapse is asked for: the dimensions in use (the
    effective rank), their share, the dead ones, and how far the AUC is above a flat spectrum's.
    """
    t, values = thresholds, min(n, d)
    fewest, most = (t.partial_rank, t.partial_dead) if layer == "backbone" else (t.embedding_rank, t.embedding_dead)
    count = max(1, min(n - 1, d, bound or d))  # centring leaves n - 1 directions
    std, rank = metrics["feature_std"], metrics["effective_rank"]
    lost = max(0.0, metrics["dead_directions"] * values - (values - count)) / count
    area = (metrics["auc"] * values - (values - count)) / count
    complete = [
        (std < t.complete_std, f"feature_std is below {t.complete_std:g}"),
        (rank < t.complete_rank and count > 2, f"effective rank is below {t.complete_rank:g}"),
    ]
    partial = [
        (std < t.partial_std, f"feature_std is below {t.partial_std:g}"),
        (rank < fewest * count, f"{rank / count:.1%} of dimensions in use is below {fewest:.0%}"),
        (lost > most, f"{lost:.1%} of directions dead is above {most:.0%}"),
    ]
    why = [text for crossed, text in complete if crossed]
    state = STATES[2] if why else STATES[0]
    if not why:
        why = [text for crossed, text in partial if crossed]
        state = STATES[1] if why else STATES[0]
    flat = (count + 1) / (2 * count)
    line = f"{_title(state)}: feature_std {std:.3g}, effective rank {rank:.3g} of {count}, {lost:.0%} dead directions"
    if why:
        line += f" ({' and '.join(why)}); AUC {area:.3f}, flat is {flat:.3f}"
        line += f"; {dead} of {d} dimensions do not change" if dead else ""
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
    """The verdict on measured representations, by what their file says of itself (``layer`` and ``directions``)."""
    return judge(
        measured.metrics,
        n=measured.n,
        d=measured.d,
        bound=meta.get("directions"),
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
    """``verdict`` beside another run's metrics: at least partial where far fewer dimensions are in use than there."""
    ours, theirs = metrics["effective_rank"], reference["effective_rank"]
    text = f"{ours:.3g} dimensions in use, {theirs:.3g} in {name}"
    if ours >= thresholds.like_rank * theirs:
        return dataclasses.replace(verdict, line=f"{verdict.line}; {text}")
    text += f", below {thresholds.like_rank:.0%} of it"
    state = max(verdict.state, STATES[1], key=STATES.index)
    line = verdict.line.replace(_title(verdict.state), _title(state), 1)
    return dataclasses.replace(verdict, state=state, line=f"{line}; {text}", why=[*verdict.why, text])


def _title(state: str) -> str:
    return state if state == STATES[0] else f"{state} collapse"
