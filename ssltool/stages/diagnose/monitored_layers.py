"""What the monitor recorded of the layers of a network: since when each has collapsed, by the verdicts in the records.

The verdict that a record holds is that of its most severe layer, at the time of the training. The verdicts on the
single layers are computed from the metrics in the record, and never exceed the recorded one, so that a record of an
earlier version, whose metrics had other conventions, is not judged again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssltool.config.fields import STATES
from ssltool.diagnosis.alarms import DEAD_KEY, judge_look, names_of_kinds
from ssltool.diagnosis.kinds import KINDS, shown
from ssltool.diagnosis.phases import phases_of_records
from ssltool.diagnosis.verdict import NEEDED, Verdict
from ssltool.errors import SSLToolError
from ssltool.settings import Record
from ssltool.stages.diagnose.findings.finding import COMPLETE, NOTE, Finding
from ssltool.stages.diagnose.findings.stretches import last_stretch
from ssltool.stages.diagnose.teacher_copy import REMEDIES
from ssltool.stages.diagnose.tested_advice import RATE

WHOLE = ("networks", "loss")
"""What shows kinds of collapse of the whole network, not of a layer."""

TEACHER_NUMBERS = KINDS["stale-teacher"].numbers

RANK_FELL = 0.8
"""An effective rank below this share of its largest value has fallen."""

LOWER_RATE = "train with a lower learning rate"

NOT_FINITE_CAUSE = "the training diverged, or an overflow in half precision"

BELOW = "the verdict is healthy, and healthy networks compress late in training too"


@dataclass(frozen=True)
class MonitoredLayer:
    """A layer whose output has the ``width`` and at most the rank ``bound``, None if it is not known."""

    width: int
    bound: int | None = None


@dataclass(frozen=True)
class Looks:
    """The ``records`` of the epochs or steps (``unit``) at which the monitor looked at ``n`` images, in order.

    Attributes:
        at: the epoch or step of each record.
        layers: the layers, by the names that the keys of the records begin with.
        causes: the known causes of a collapse at a record, and the advice that follows from them; both may be empty.
        unknown: what is said if there are none.
    """

    unit: str
    records: Sequence[Record]
    at: Sequence[float]
    n: int
    layers: Mapping[str, MonitoredLayer]
    causes: Callable[[Record], tuple[list[str], str, str]]
    unknown: str


def layer_findings(looks: Looks) -> list[Finding]:
    """A finding for each layer that has collapsed at the last look, or is not finite, and notes on those that recovered
    or whose rank fell.

    Raises:
        SSLToolError: for a verdict that is none.
    """
    judged = [_states(looks, record) for record in looks.records]
    found = [finding for name in _names(judged) for finding in _in_layer(looks, name, [of.get(name) for of in judged])]
    found += [*_of_teacher(looks), *_not_finite(looks)]
    return found if any(finding.state != NOTE for finding in found) else [*found, *_rank_fell(looks)]


def _names(judged: Sequence[Mapping[str, int]]) -> list[str]:
    return list(dict.fromkeys(name for of in judged for name in of))


def _states(looks: Looks, record: Record) -> dict[str, int]:
    """The severity of each layer in a record: that of its metrics, at most the recorded one, which the most severe
    layer has; empty if the record has no verdict."""
    if record.get("verdict") is None:
        return {}
    if record["verdict"] not in STATES:
        known = ", ".join(STATES)
        raise SSLToolError(f"the verdict {record['verdict']!r} of a record is none of {known}; restore metrics.jsonl")
    recorded = STATES.index(record["verdict"])
    of_rows = [name for name in names_of_kinds(record) if name not in KINDS or KINDS[name].needs not in WHOLE]
    verdicts = {name: verdict for name in looks.layers if (verdict := _verdict(looks, record, name)) is not None}
    severity = {name: min(verdict.severity, recorded) for name, verdict in verdicts.items()}
    if severity and max(severity.values()) < recorded and (of_rows or not record.get("kinds")):
        severity[max(severity, key=lambda name: severity[name])] = recorded
    return severity


def _verdict(looks: Looks, record: Record, name: str) -> Verdict | None:
    """The verdict on the metrics of a layer. Records of earlier versions have no dead dimensions."""
    if any(record.get(f"{name}_{metric}") is None for metric in NEEDED):
        return None
    known = {key.removeprefix(f"{name}_"): value for key, value in record.items() if key.startswith(f"{name}_")}
    values = {DEAD_KEY: 0.0} | {key: float(value) for key, value in known.items() if value is not None}
    layer, untrained = looks.layers[name], record.get("step") == 0
    return judge_look(name, values, n=looks.n, d=layer.width, bound=layer.bound, untrained=untrained)


def _in_layer(looks: Looks, name: str, severity: Sequence[int | None]) -> list[Finding]:
    """The collapse of a layer, from the look on since which it lasts; or a note on one that it recovered from."""
    order = [i for i, of in enumerate(severity) if of is not None]
    wrong = [i for i in order if severity[i]]
    if not wrong:
        return []
    last, stretch = order[-1], last_stretch(np.array([bool(severity[i]) for i in order]))
    if stretch is None:
        count = f"{len(wrong)} of {len(order)} monitored {looks.unit}s, the last of them {looks.at[wrong[-1]]:g}"
        line = f"the {name} was judged collapsed in {count}, and is healthy at the end"
        return [Finding("recovered", NOTE, line, looks.at[wrong[0]])]
    first = order[stretch[0]]
    record, state, since = looks.records[last], STATES[severity[last] or 0], looks.at[first]
    causes, advice, tested = looks.causes(record)
    dead = [looks.records[i].get(f"{name}_{DEAD_KEY}") or 0 for i in (order[0], last)]
    if dead[1] > dead[0]:
        causes.append(f"dead dimensions of the {name}: {dead[1]:.0f}, in the first check {dead[0]:.0f}")
    line = f"the {name} shows {_line(looks, record, name, state)}; since {looks.unit} {since:g}"
    line += ", the first that was monitored" if first == order[0] else ""
    evidence: dict[str, float | str] = {metric: record[f"{name}_{metric}"] for metric in NEEDED} | {"layer": name}
    cause = "; ".join(causes) or looks.unknown
    advice, tested = (advice, tested) if causes else (LOWER_RATE, RATE)
    verdict = _verdict(looks, record, name)
    kinds = () if verdict is None else tuple(kind.kind for kind in verdict.kinds)
    return [Finding(f"{state}-collapse", state, line, since, evidence, cause, advice, tested, kinds)]


def _line(looks: Looks, record: Record, name: str, state: str) -> str:
    """The verdict on a layer, in words; only the recorded one where its metrics would be judged otherwise today."""
    verdict = _verdict(looks, record, name)
    if verdict is not None and verdict.state == state:
        return verdict.line
    values = ", ".join(f"{metric} {record[f'{name}_{metric}']:.3g}" for metric in NEEDED)
    return f"{state} collapse by the verdict in the record: {values}"


def _of_teacher(looks: Looks) -> list[Finding]:
    """What the weights of teacher and student showed at the end, since the look from which on they show it."""
    pairs = zip(looks.at, looks.records, strict=True)
    known = [(at, record) for at, record in pairs if all(record.get(n) is not None for n in TEACHER_NUMBERS)]
    at_each = [{kind.kind: kind for kind in shown({n: record[n] for n in TEACHER_NUMBERS})} for _, record in known]
    found = []
    for name, kind in at_each[-1].items() if at_each else ():
        stretch = last_stretch(np.array([name in kinds for kinds in at_each]))
        since = known[stretch[0] if stretch else -1][0]
        line = f"{kind.why[0]}; since {looks.unit} {since:g}"
        found.append(Finding(name, kind.state, line, since, dict(kind.numbers), *REMEDIES[name]))
    return found


def _not_finite(looks: Looks) -> list[Finding]:
    """Outputs that are NaN or infinite at the last look."""
    stretch = last_stretch(np.array(["verdict" in r and r["verdict"] is None for r in looks.records]))
    if stretch is None:
        return []
    since, record = looks.at[stretch[0]], looks.records[-1]
    named = [name for name in looks.layers if f"{name}_auc" in record and record[f"{name}_auc"] is None]
    line = f"the output of the {', '.join(named) or 'network'} is NaN or infinite since {looks.unit} {since:g}"
    return [Finding("nonfinite", COMPLETE, line, since, {"layer": ", ".join(named)}, NOT_FINITE_CAUSE)]


def _rank_fell(looks: Looks) -> list[Finding]:
    """A note on an effective rank of the first layer that fell while every verdict stayed healthy, with the phases of
    the training; a slope alone is no fault."""
    name = next(iter(looks.layers), "")
    pairs = zip(looks.at, (record.get(f"{name}_effective_rank") for record in looks.records), strict=True)
    ranks = [(at, float(rank)) for at, rank in pairs if rank]
    if len(ranks) < 3:
        return []
    (at, largest), (end, last) = max(ranks, key=lambda pair: pair[1]), ranks[-1]
    if last >= RANK_FELL * largest:
        return []
    line = (
        f"the effective rank of the {name} fell from {largest:.3g} at {looks.unit} {at:g} to {last:.3g} at "
        f"{looks.unit} {end:g}; {BELOW}"
    )
    named = ", ".join(map(str, phases_of_records(looks.records, name)))
    line += f"; phases by {looks.unit}: {named}" if named else ""
    return [Finding("rank-fell", NOTE, line, at, {"largest": largest, "last": last})]
