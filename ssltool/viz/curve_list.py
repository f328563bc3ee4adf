"""The curves of a training: which metrics of its records a panel shows, and how. Figures, reports and the live page
draw the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LAYERS = {"backbone": "-", "projector": "--"}
"""The layers that runs monitor and their line styles. A monitor of another training may have others."""

OTHER_STYLES = ("-.", ":", "--", "-")
"""The line styles of other layers, in turn."""

PERCENT = 100.0

Records = Sequence[Mapping[str, Any]]
"""The lines of a run's ``metrics.jsonl``."""


@dataclass(frozen=True)
class Curve:
    """A panel over epochs.

    Attributes:
        title: its title.
        label: label of the vertical axis, with the unit.
        keys: keys of a record, each with its line style.
        scale: factor by which the values are multiplied.
        collapsed: the value at complete collapse, or None if it is not known.
    """

    title: str
    label: str
    keys: tuple[tuple[str, str], ...]
    scale: float = 1.0
    collapsed: float | None = None


def curves_of_layers(layers: Mapping[str, str]) -> tuple[Curve, ...]:
    """The panels of the metrics of ``layers``, given with their line styles; the kNN accuracy is of the first."""

    def keys(metric: str) -> tuple[tuple[str, str], ...]:
        return tuple((f"{layer}_{metric}", style) for layer, style in layers.items())

    return (
        Curve("AUC", "AUC (1: collapsed)", keys("auc"), 1.0, 1.0),
        Curve("Effective rank", "dimensions in use", keys("effective_rank"), 1.0, 1.0),
        Curve("Feature std", "std of directions × √d", keys("feature_std"), 1.0, 0.0),
        Curve("Dead directions", "dead directions (%)", keys("dead_directions"), PERCENT),
        Curve("kNN accuracy", "accuracy (%)", tuple((name, "-") for name, _ in keys("knn")), PERCENT),
    )


MONITORED = curves_of_layers(LAYERS)
LOSS = Curve("Loss", "mean loss of the epoch", (("loss", "-"),))
BATCH_FEATURE_STD = Curve(
    "Feature std of training batches", "std of directions × √d", (("feature_std", "--"),), 1.0, 0.0
)
"""``feature_std`` of the projections in the training batches, for runs without a monitor."""


def layers_of(runs: Sequence[Records]) -> dict[str, str]:
    """The monitored layers of the runs with their line styles; ``LAYERS`` if there are no others."""
    ends = "_effective_rank"
    found = {key.removesuffix(ends): None for records in runs for r in records for key in r if key.endswith(ends)}
    others = [name for name in found if name not in LAYERS]
    known = {name: style for name, style in LAYERS.items() if name in found or not others}
    return known | {name: OTHER_STYLES[i % len(OTHER_STYLES)] for i, name in enumerate(others)}
