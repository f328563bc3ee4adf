"""The data of a report, which ``report.measure_run`` computes for each run and the sections render."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssltool.diagnosis.measure import Measured
from ssltool.diagnosis.verdict import Verdict
from ssltool.settings import Record, Settings
from ssltool.viz.data_schedule import Schedule
from ssltool.viz.pictures import EmbeddingMap, Views


@dataclass(frozen=True)
class Layer:
    """Measurement of the outputs of a layer (``backbone`` or ``projector``), and their verdict."""

    name: str
    measured: Measured
    verdict: Verdict


@dataclass(frozen=True)
class LabelledImage:
    """An image (H, W, 3) uint8 with the name of its class, None if unlabelled, and its cosine with a query."""

    image: np.ndarray
    label: str | None
    cosine: float = 1.0


@dataclass(frozen=True)
class Neighbours:
    """The nearest neighbours of some images.

    Attributes:
        queries: the images.
        nearest: the neighbours of each query, nearest first.
        k: the maximum number of neighbours that vote.
        accuracy: leave-one-out kNN accuracy of the labelled images of the sample, None without labels.
    """

    queries: list[LabelledImage]
    nearest: list[list[LabelledImage]]
    k: int
    accuracy: float | None


@dataclass(frozen=True)
class ReportedRun:
    """A run in a report.

    Attributes:
        name: its display name.
        settings: its resolved settings.
        records: the records of its epochs.
        origin: the checkpoint and the versions of software.
        images: a description of its training images.
        found: what was found in the folder of the images.
        sampled: the number of images that were measured.
        layers: the results of each layer.
        neighbours: the nearest neighbours of some images.
        map: the map of the representations.
        views: augmented views of some images.
        schedule: the data and learning rate schedule.
    """

    name: str
    settings: Settings
    records: Sequence[Record]
    origin: Record
    images: str
    found: Record
    sampled: int
    layers: list[Layer]
    neighbours: Neighbours
    map: EmbeddingMap
    views: Views
    schedule: Schedule

    def layer(self, name: str) -> Layer | None:
        """The layer ``name``, or None if the method does not have it."""
        return next((layer for layer in self.layers if layer.name == name), None)

    @property
    def worst(self) -> Verdict:
        """The most severe verdict of the layers."""
        return max((layer.verdict for layer in self.layers), key=lambda verdict: verdict.severity)
