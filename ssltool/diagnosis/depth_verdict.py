"""The verdict on each layer of a network, and where in depth its collapse begins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from ssltool.config import LAYERS
from ssltool.config.fields import STATES
from ssltool.diagnosis.layer_sums import MeasuredLayer
from ssltool.diagnosis.verdict import Thresholds, Verdict, compare


def judge_layer(measured: MeasuredLayer, untrained: MeasuredLayer | None, thresholds: Thresholds) -> Verdict:
    """The verdict on a layer, compared with the same layer of an untrained network.

    Of the backbone and the heads it is that of ``collapse --like``. The thresholds of the other verdicts hold for
    representations only: an untrained network's blocks may be below them. So a block is collapsed if its effective rank
    is below ``like_rank`` of the untrained network's, or if its ``feature_std`` is below that share of the untrained
    network's and below ``partial_std``; its state is then that of its verdict, and at least partial. Without an
    untrained network to compare with it is collapsed, completely, if its effective rank is below ``complete_rank``.
    """
    verdict = measured.verdict(thresholds)
    if measured.layer in LAYERS:
        if untrained is None:
            return verdict
        return compare(verdict, measured.metrics, untrained.metrics, "untrained", thresholds)
    if untrained is None:
        low = measured.metrics["effective_rank"] < thresholds.complete_rank
        why = [f"effective rank is below {thresholds.complete_rank:g}"] if low else []
        return dataclasses.replace(verdict, state=STATES[2] if low else STATES[0], why=why)
    share, why = thresholds.like_rank, []
    for name, title, most in (
        ("effective_rank", "effective rank", math.inf),
        ("feature_std", "feature_std", thresholds.partial_std),
    ):
        ours, theirs = measured.metrics[name], untrained.metrics[name]
        if ours < min(share * theirs, most):
            why.append(f"{title} {ours:.3g} is below {share:.0%} of the untrained network's {theirs:.3g}")
    state = max(verdict.state, STATES[1], key=STATES.index) if why else STATES[0]
    return dataclasses.replace(verdict, state=state, why=why)


def begins(states: Sequence[str]) -> int:
    """The index of the first layer from which on all are collapsed; the number of layers if the last is healthy."""
    healthy = [i for i, state in enumerate(states) if state == STATES[0]]
    return healthy[-1] + 1 if healthy else 0
