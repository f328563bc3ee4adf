"""The verdict on each layer of a network, and where in depth its collapse begins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from ssltool.config import LAYERS
from ssltool.config.fields import STATES
from ssltool.diagnosis.kinds import Shown
from ssltool.diagnosis.layer_sums import MeasuredLayer
from ssltool.diagnosis.verdict import Thresholds, Verdict, compare, fewer_numbers


def judge_layer(measured: MeasuredLayer, untrained: MeasuredLayer | None, thresholds: Thresholds) -> Verdict:
    """The verdict on a layer, compared with the same layer of an untrained network.

    Of the backbone and the heads it is that of ``collapse --reference``. The thresholds of the other verdicts hold for
    representations only: an untrained network's blocks may be below them. So a block is collapsed if its effective rank
    is below ``like_rank`` of the untrained network's, or if its ``feature_std`` is below that share of the untrained
    network's and below ``partial_std``; its state is then that of its verdict, and at least partial. Without an
    untrained network to compare with it is collapsed, completely, if its effective rank is below ``complete_rank``.
    """
    verdict = measured.verdict(thresholds, untrained)
    if measured.layer in LAYERS:
        if untrained is None:
            return verdict
        return compare(verdict, measured.metrics, untrained.metrics, "untrained", thresholds)
    if untrained is None:
        low = measured.metrics["effective_rank"] < thresholds.complete_rank
        why = [f"effective rank is below {thresholds.complete_rank:g}"] if low else []
        kinds = verdict.kinds if low else []
        return dataclasses.replace(verdict, state=STATES[2] if low else STATES[0], why=why, kinds=kinds)
    share, why = thresholds.like_rank, []
    for name, title, most in (
        ("effective_rank", "effective rank", math.inf),
        ("feature_std", "feature_std", thresholds.partial_std),
    ):
        ours, theirs = measured.metrics[name], untrained.metrics[name]
        if ours < min(share * theirs, most):
            why.append(f"{title} {ours:.3g} is below {share:.0%} of the untrained network's {theirs:.3g}")
    state = max(verdict.state, STATES[1], key=STATES.index) if why else STATES[0]
    kinds = [dataclasses.replace(kind, why=why) for kind in verdict.kinds] if why else []
    if why and not kinds:
        kinds = [Shown("dimensional", STATES[1], fewer_numbers(measured.metrics, untrained.metrics), why)]
    return dataclasses.replace(verdict, state=state, why=why, kinds=kinds)


def collapsed_stretch(states: Sequence[str], backbone: int) -> range:
    """The indices of the layers in which the collapse of a network shows, from the first to the last; empty if there is
    none.

    ``states`` are those of the layers by depth, ``backbone`` is the index of the backbone's output. If that is
    collapsed, the stretch is that around it, from the first layer from which on all are collapsed. If it is healthy,
    the stretch is that at the end, in the heads.
    """
    collapsed = [state != STATES[0] for state in states]
    last = backbone if collapsed[backbone] else len(states) - 1
    first = last
    while first >= 0 and collapsed[first]:
        first -= 1
    while last + 1 < len(states) and collapsed[last + 1]:
        last += 1
    return range(first + 1, last + 1) if first < last else range(0)
