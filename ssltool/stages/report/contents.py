"""The data of a report: what ``report.measure_run`` gathers of each run, and ``sections`` lay out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssltool.diagnosis.measure import Measured
from ssltool.diagnosis.verdict import Verdict
from ssltool.viz.pictures import EmbeddingMap, Views
from ssltool.viz.schedule import Schedule


@dataclass(frozen=True)
class Layer:
    """What was measured of the outputs of a layer (``backbone`` or ``projector``), and the verdict on them."""

    name: str
    measured: Measured
    verdict: Verdict


@dataclass(frozen=True)
class Shown:
    """An image (H, W, 3) uint8 with the name of its class, None where unlabelled, and its similarity to a query."""

    image: np.ndarray
    label: str | None
    similarity: float = 1.0


@dataclass(frozen=True)
class Neighbours:
    """Queries, and for each its nearest other images, nearest first.

    ``accuracy`` is that of a vote of the ``k`` nearest (of all, where there are fewer) over the labelled images of the
    sample, each leaving itself out; None without labels.
    """

    queries: list[Shown]
    found: list[list[Shown]]
    k: int
    accuracy: float | None


@dataclass(frozen=True)
class ReportedRun:
    """A run in a report: its ``name`` there, its resolved settings (``config``), the ``records`` of its epochs, the
    ``origin`` of the numbers (checkpoint and versions), a description of its ``images``, how many of them were
    ``sampled``, and the results."""

    name: str
    config: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    origin: Mapping[str, Any]
    images: str
    sampled: int
    layers: list[Layer]
    neighbours: Neighbours
    map: EmbeddingMap
    views: Views
    schedule: Schedule

    def layer(self, name: str) -> Layer | None:
        """The layer of that name, if the method has it."""
        return next((layer for layer in self.layers if layer.name == name), None)

    @property
    def worst(self) -> Verdict:
        """The worst of the layers' verdicts."""
        return max((layer.verdict for layer in self.layers), key=lambda verdict: verdict.severity)
