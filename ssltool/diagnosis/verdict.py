"""The verdict: healthy, partial collapse or complete collapse, and the kinds of collapse.

No single metric detects all kinds of collapse. Nearly constant outputs can have a flat spectrum after centring;
``feature_std`` detects them. Outputs in a few dimensions can be isotropic within these dimensions; the spectrum detects
them. ``effective_rank`` measures the dimensions in use and ``dead_directions`` the dimensions lost. The thresholds are
calibrated on networks that are known to be healthy or collapsed; docs/collapse.md has the numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ssltool.config.fields import STATES
from ssltool.diagnosis.kinds import KINDS, Shown, shown
from ssltool.diagnosis.limits import Limit
from ssltool.diagnosis.measure import Measured
from ssltool.diagnosis.spectrum import possible_directions
from ssltool.diagnosis.thresholds import DEFAULT as DEFAULT
from ssltool.diagnosis.thresholds import Thresholds as Thresholds

NEEDED = ("auc", "effective_rank", "dead_directions", "feature_std")
"""The metrics that a verdict requires. The AUC is reported only: it shows how far the spectrum is from flat."""


@dataclass(frozen=True)
class Verdict:
    """``state`` is one of ``STATES``, ``line`` is a one-line summary, ``why`` lists the exceeded thresholds, and
    ``kinds`` the kinds of collapse, the first the main one, with the numbers that decided them. ``numbers`` are all
    that the rules of the kinds could take, and ``thresholds`` those of the layer."""

    state: str
    line: str
    why: list[str]
    details: dict[str, Any] = field(default_factory=dict)
    kinds: list[Shown] = field(default_factory=list)
    numbers: Mapping[str, float] = field(default_factory=dict)
    thresholds: Thresholds = DEFAULT

    @property
    def severity(self) -> int:
        """0 healthy, 1 partial, 2 complete."""
        return STATES.index(self.state)

    def asked(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """What it says of each of the kinds ``names``: the ``numbers`` that decide it, None where they are not known,
        the ``thresholds`` that they are compared with, and whether it is ``shown``, by itself or because a complete
        collapse implies it."""
        found = [kind.kind for kind in self.kinds]
        return [
            {
                "kind": name,
                "shown": Limit(kinds=(name,)).is_reached(None, found),
                "numbers": {number: self.numbers.get(number) for number in KINDS[name].numbers},
                "thresholds": {key: getattr(self.thresholds, key) for key in KINDS[name].thresholds},
            }
            for name in names
        ]

    def with_kinds(self, more: Sequence[Shown]) -> Verdict:
        """The verdict with further kinds, at least as severe as each of them."""
        if not more:
            return self
        state = max((self.state, *(kind.state for kind in more)), key=STATES.index)
        why = [text for kind in more for text in kind.why]
        line = f"{self.line.replace(_title(self.state), _title(state), 1)}; {_named(more)} ({' and '.join(why)})"
        return dataclasses.replace(
            self, state=state, line=line, why=[*self.why, *why], kinds=sorted([*self.kinds, *more], key=Shown.order)
        )


def judge(
    metrics: Mapping[str, float],
    *,
    n: int,
    d: int,
    bound: int | None = None,
    layer: str = "backbone",
    dead: int = 0,
    thresholds: Thresholds = DEFAULT,
    untrained: bool = False,
) -> Verdict:
    """The verdict on n rows of width d, outputs of ``layer``, from ``metrics`` (at least ``NEEDED``).

    ``bound`` is the largest possible rank of the layer. All fractions refer to the directions that the layer can have,
    ``possible_directions``, as do the ``metrics`` that ``measure`` computes with this bound. ``dead`` is the number of
    dead dimensions. Further metrics and numbers, such as ``kinds.ratios``, show further kinds of collapse. An
    ``untrained`` network has not collapsed, whatever its outputs. The details hold the dimensions in use (the effective
    rank) and their fraction, the dead directions and dimensions, and the difference of the AUC to that of a flat
    spectrum.
    """
    count = possible_directions(n, d, bound)
    std, rank, lost, area = (metrics[name] for name in ("feature_std", "effective_rank", "dead_directions", "auc"))
    numbers = {**metrics, "used_share": rank / count, "directions": count}
    thresholds = thresholds.of(layer)
    kinds = [] if untrained else shown(numbers, thresholds)
    why = [text for kind in kinds for text in kind.why]
    state = max((STATES[0], *(kind.state for kind in kinds)), key=STATES.index)
    flat = (count + 1) / (2 * count)
    size = f"{rank:.3g}" if rank < 999.5 else f"{rank:.0f}"
    line = f"{_title(state)}: feature_std {std:.3g}, effective rank {size} of {count}, {lost:.0%} dead directions"
    if why:
        line += f" ({' and '.join(why)}); AUC {area:.3f} (flat spectrum: {flat:.3f})"
        line += f"; dead dimensions: {dead} of {d}" if dead else ""
        line += f"; {_named(kinds)}"
    line += "; the network is untrained, which is no collapse" if untrained else ""
    details = {
        "dimensions": count,
        "used": rank,
        "used_share": rank / count,
        "dead_directions": lost,
        "dead_dimensions": dead,
        "auc_above_flat": area - flat,
    }
    return Verdict(state, line, why, details, kinds, numbers, thresholds)


def _named(kinds: Sequence[Shown]) -> str:
    return f"kind{'s' * (len(kinds) > 1)}: {', '.join(map(str, kinds))}"


def is_untrained(meta: Mapping[str, Any]) -> bool | None:
    """Whether the metadata of representations say that the network is untrained; None if they do not say."""
    random, epoch = meta.get("random"), meta.get("epoch")
    if random is None:
        return None if epoch is None else bool(epoch == 0)
    return bool(random)


def judge_measured(
    measured: Measured,
    meta: Mapping[str, Any],
    thresholds: Thresholds = DEFAULT,
    numbers: Mapping[str, float] = MappingProxyType({}),
) -> Verdict:
    """The verdict on measured representations, with the ``layer`` from the metadata of their file, and whether the
    network is untrained. ``numbers`` are further ones, such as ``kinds.ratios``."""
    return judge(
        {**measured.numbers, **numbers},
        n=measured.n,
        d=measured.d,
        bound=measured.bound,
        layer=meta.get("layer", "backbone"),
        dead=len(measured.dead),
        thresholds=thresholds,
        untrained=bool(is_untrained(meta)),
    )


def compare(
    verdict: Verdict,
    metrics: Mapping[str, float],
    reference: Mapping[str, float],
    name: str,
    thresholds: Thresholds = DEFAULT,
    *,
    untrained: bool = False,
) -> Verdict:
    """``verdict`` compared with a reference run: at least partial if far fewer dimensions are in use. An ``untrained``
    network keeps its state."""
    ours, theirs = metrics["effective_rank"], reference["effective_rank"]
    text = f"dimensions in use: {ours:.3g} ({name}: {theirs:.3g})"
    if ours >= thresholds.like_rank * theirs:
        return dataclasses.replace(verdict, line=f"{verdict.line}; {text}")
    text += f", a ratio below {thresholds.like_rank:.0%}"
    if untrained:
        return dataclasses.replace(verdict, line=f"{verdict.line}; {text}")
    state = max(verdict.state, STATES[1], key=STATES.index)
    line = verdict.line.replace(_title(verdict.state), _title(state), 1)
    kinds = verdict.kinds or [Shown("dimensional", STATES[1], fewer_numbers(metrics, reference), [text])]
    return dataclasses.replace(verdict, state=state, line=f"{line}; {text}", why=[*verdict.why, text], kinds=kinds)


def fewer_numbers(metrics: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
    """The numbers by which a representation has far fewer dimensions than a reference."""
    ours, theirs = metrics["effective_rank"], reference["effective_rank"]
    return {"effective_rank": ours, "reference_rank": theirs, "feature_std": metrics["feature_std"]}


def _title(state: str) -> str:
    return state if state == STATES[0] else f"{state} collapse"
