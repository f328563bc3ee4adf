"""What is said of the layers of a network, compared with earlier records of the same run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ssltool.config.fields import LAYERS, STATES
from ssltool.diagnosis.kinds import KINDS, Shown, relative_distance
from ssltool.diagnosis.verdict import DEFAULT, Verdict, judge
from ssltool.settings import Record

DEAD_KEY = "dead_dimensions"
"""Key of the number of dead dimensions in a record."""

LOSS_TOLERANCE = 0.01
"""Tolerance of ``is_close``, relative to max(1, |value|). It is wider than ``Thresholds.uniform_loss``, by which a loss
alone decides a verdict, because here the loss only explains what the outputs show, or warns."""

WHOLE = 0.01
"""Largest distance to a whole number of a K whose logarithm is known."""

MOST_OUTPUTS = 10**7
"""Largest K for which ln K is recognised."""


@dataclass(frozen=True)
class Measurement:
    """The ``values`` (metrics) and ``width`` of a layer's output, and the ``verdict``, None if it is not finite."""

    values: dict[str, float]
    width: int
    verdict: Verdict | None


def judge_look(
    layer: str, values: Mapping[str, float], *, n: int, d: int, bound: int | None, untrained: bool = False
) -> Verdict:
    """The verdict on n outputs of width d of a ``layer``, from ``values`` of a look, with ``DEAD_KEY``; see ``judge``.

    Layers other than projector and predictor are judged as representations.
    """
    kind = layer if layer in LAYERS else LAYERS[0]
    return judge(values, n=n, d=d, bound=bound, layer=kind, dead=int(values[DEAD_KEY]), untrained=untrained)


def worst_layer(layers: Mapping[str, Measurement]) -> tuple[str, Verdict] | None:
    """The first layer with the most severe verdict, and the verdict; None if no layer has one."""
    judged = {name: of.verdict for name, of in layers.items() if of.verdict is not None}
    name = max(judged, key=lambda name: judged[name].severity, default=None)
    return None if name is None else (name, judged[name])


def alarms(
    layers: Mapping[str, Measurement],
    history: Sequence[Record],
    causes: Callable[[list[str]], str],
    *,
    untrained: bool = False,
    phase: str = "",
) -> list[str]:
    """One line for each output that is not finite, and for a verdict that is worse than the last one in ``history``;
    else one for each layer whose dimensions died since then.

    ``causes`` gives the probable causes of a worse verdict, from the clauses on dead dimensions. The verdict on an
    ``untrained`` network, at step 0, is no alarm: its outputs may be far from spread. Neither is a falling rank by
    itself; the ``phase`` of the training is named beside a worse verdict.
    """
    found = [f"the output of the {name} is not finite" for name, of in layers.items() if of.verdict is None]
    dead = [_DeadDimensions.of(name, layer, history) for name, layer in layers.items()]
    if untrained:
        return found
    before = next((r["verdict"] for r in reversed(history) if r.get("verdict") and r.get("step") != 0), STATES[0])
    worst = worst_layer(layers)
    if worst is None or worst[1].severity <= STATES.index(before):
        return found + [str(of) for of in dead if of.increased_sharply()]
    name, verdict = worst
    why = causes([str(of) for of in dead if of.increased()])
    in_phase = f" in the phase {phase}" if phase else ""
    return [*found, f"the {name} shows {verdict.line}{in_phase}. Probable cause: {why}"]


def kind_alarms(kinds: Sequence[Shown], history: Sequence[Record]) -> list[str]:
    """One line for each of the ``kinds`` of the whole network that the last look did not name."""
    before = names_of_kinds(history[-1]) if history else []
    new = [kind for kind in kinds if kind.kind not in before]
    return [f"{KINDS[kind.kind].sentence.rstrip('.')}: {' and '.join(kind.why)}; kind: {kind}" for kind in new]


def names_of_kinds(record: Record) -> list[str]:
    """The kinds of collapse that a record names."""
    return [name for name in (record.get("kinds") or "").split(", ") if name]


def constant_output_causes(loss: float, constants: Sequence[float]) -> list[str]:
    """That ``loss`` is one of the ``constants`` that it has if all outputs are the same; empty if it is none."""
    at = [value for value in constants if is_close(loss, value)]
    return [f"the loss of {loss:.4g} is that of a constant output ({at[0]:.4g})"] if at else []


def uniform_losses(constants: Sequence[float]) -> list[float]:
    """Those of the ``constants`` that are ln K for a whole number K: cross-entropies of uniform outputs."""
    counts = {value: math.exp(value) for value in constants if 0 < value < math.log(MOST_OUTPUTS)}
    return [value for value, count in counts.items() if abs(count - round(count)) < WHOLE]


def uniform_numbers(loss: float | None, constants: Sequence[float], history: Sequence[Record]) -> dict[str, float]:
    """What shows uniform outputs: ``loss``, the nearest ln K among the ``constants`` (``uniform_loss``), and in how
    many looks up to now the loss stood there (``uniform_looks``). Empty if the loss or K is not known."""
    known = uniform_losses(constants)
    if loss is None or not known or not math.isfinite(loss):
        return {}
    nearest = min(known, key=lambda value: abs(loss - value))
    looks = 0
    for value in (loss, *(record.get("loss") for record in reversed(history))):
        if value is None or relative_distance(value, nearest) > DEFAULT.uniform_loss:
            break
        looks += 1
    return {"loss": loss, "uniform_loss": nearest, "uniform_looks": looks}


def is_close(loss: float, value: float) -> bool:
    """Whether ``loss`` equals ``value`` within ``LOSS_TOLERANCE``."""
    return relative_distance(loss, value) <= LOSS_TOLERANCE


@dataclass(frozen=True)
class _DeadDimensions:
    """Number of dead dimensions of a layer: ``now``, in the ``first`` record, and the maximum (``most``) before."""

    layer: str
    width: int
    now: float
    first: float
    most: float

    @classmethod
    def of(cls, name: str, layer: Measurement, history: Sequence[Record]) -> _DeadDimensions:
        now = layer.values[DEAD_KEY]
        earlier = [r[key] for r in history if r.get(key := f"{name}_{DEAD_KEY}") is not None] or [now]
        return cls(name, layer.width, now, earlier[0], max(earlier))

    def increased(self) -> bool:
        """Whether there are more than in the first record."""
        return self.now > self.first

    def increased_sharply(self) -> bool:
        """Whether at least 1 % of the width died since the first record, and the number doubled since the maximum."""
        return self.now - self.first >= max(1.0, self.width / 100) and self.now >= 2 * self.most

    def __str__(self) -> str:
        return f"dead dimensions of the {self.layer}: {self.now:.0f} of {self.width}, initially {self.first:.0f}"
