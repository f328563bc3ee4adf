"""The file of ``--reference`` or ``--like``, and whether it is the untrained network of another file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ssltool.diagnosis.kinds import ratios
from ssltool.diagnosis.measure import Measured, subsample_metrics
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.spectrum import possible_directions
from ssltool.diagnosis.verdict import is_untrained
from ssltool.settings import Record


@dataclass(frozen=True)
class EffectiveRanks:
    """The effective ranks of a file and of its reference that are compared, and ``notes`` on how they were made
    comparable."""

    ours: float
    theirs: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """The file to compare with: its ``meta``, its ``rows``, and what was ``measured`` of them."""

    meta: Record
    rows: Rows
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

    def effective_ranks(self, rows: Rows, measured: Measured, *, normalize: bool, seed: int) -> EffectiveRanks:
        """The effective ranks of ``rows``, as ``measured``, and of the reference.

        Few rows have few directions, so of two sets of different sizes the larger is measured on a random sample of the
        other's size. The reference's rank counts at most the number of directions that the file can have. All ranks
        call this.
        """
        n = min(measured.n, self.measured.n)
        notes = []
        ours = _rank_of(rows, measured, n, normalize, seed)
        theirs = _rank_of(self.rows, self.measured, n, normalize, seed)
        if measured.n != self.measured.n:
            notes.append(
                f"{rows.name} has {measured.n:,} rows and {self.rows.name} {self.measured.n:,}; the dimensions in use "
                f"are compared on {n:,} rows of each"
            )
        possible = possible_directions(n, measured.d, measured.bound)
        if theirs > possible:
            notes.append(
                f"{self.rows.name} has {theirs:.3g} dimensions in use, more than the {possible:,} that {rows.name} can "
                f"have, and counts as {possible:,}"
            )
        return EffectiveRanks(ours, min(theirs, possible), tuple(notes))


def _rank_of(rows: Rows, measured: Measured, n: int, normalize: bool, seed: int) -> float:
    """The effective rank of ``n`` random rows, of which there are ``measured.n``."""
    name = "effective_rank"
    if n == measured.n:
        return measured.metrics[name]
    return subsample_metrics(rows, [n], [name], bound=measured.bound, normalize=normalize, seed=seed)[0][name]
