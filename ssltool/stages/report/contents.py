"""The data of a report, which ``report.measure_run`` computes for each run and the sections render."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ssltool.diagnosis.verdict import Verdict
from ssltool.settings import Record, Settings
from ssltool.viz.data_schedule import Schedule
from ssltool.viz.patch_pictures import PatchPicture
from ssltool.viz.pictures import EmbeddingMap, Views


@dataclass(frozen=True)
class Layer:
    """The outputs of a layer of width ``d``: ``metrics``, the singular values ``s`` of the directions that the layer
    can have, ``notes`` on what may mislead, and ``verdict``; of the untrained network the metrics and the singular
    values, None if they are not known; ``alone`` is the verdict without comparing with it, that of ``collapse`` without
    ``--reference``."""

    name: str
    metrics: dict[str, float]
    s: Tensor
    d: int
    notes: list[str]
    verdict: Verdict
    untrained: dict[str, float] | None = None
    untrained_s: Tensor | None = None
    alone: Verdict | None = None


@dataclass(frozen=True)
class LabelledImage:
    """An image (H, W, 3) uint8 with its ``name`` (see ``data_preview.image_name``), the name of its class, None if
    unlabelled, and its cosine with a query."""

    image: np.ndarray
    name: str
    label: str | None
    cosine: float = 1.0


@dataclass(frozen=True)
class Neighbours:
    """The nearest neighbours of some images.

    Attributes:
        queries: the images.
        nearest: the neighbours of each query, nearest first.
    """

    queries: list[LabelledImage]
    nearest: list[list[LabelledImage]]


@dataclass(frozen=True)
class ReportedRun:
    """A run in a report. The folder of a monitor has no checkpoint and no images, so the parts that need them are None.

    Attributes:
        name: its display name.
        title: what it is, in one line.
        settings: its resolved settings.
        records: the records of its epochs.
        origin: the checkpoint and the versions of software.
        measured_on: on what it was trained or measured, a sentence without its full stop.
        found: what was found in the folder of the images.
        sampled: the number of images that were measured.
        loss: the loss of the measured epoch or look.
        accuracy: leave-one-out kNN accuracy of the labelled images of the sample, None without labels.
        untrained_accuracy: that of the untrained network.
        layers: the results of each layer.
        neighbours: the nearest neighbours of some images.
        map: the map of the representations.
        patches: pictures of the patches of some images, None unless the network is a ViT.
        views: augmented views of some images.
        schedule: the data and learning rate schedule.
    """

    name: str
    title: str
    settings: Settings
    records: Sequence[Record]
    origin: Record
    measured_on: str
    found: Record | None
    sampled: int
    layers: list[Layer]
    loss: float | None
    accuracy: float | None
    untrained_accuracy: float | None = None
    neighbours: Neighbours | None = None
    map: EmbeddingMap | None = None
    patches: list[PatchPicture] | None = None
    views: Views | None = None
    schedule: Schedule | None = None

    @property
    def trained_images(self) -> int | None:
        """The number of training images, None if it is not known."""
        return None if self.found is None else int(self.settings["n_images"])

    @property
    def monitored_images(self) -> int | None:
        """The number of images that the monitor measured, None without a monitor."""
        if self.found is None:
            return self.sampled
        return int(self.settings["monitor_size"]) if self.settings.get("monitor_every") else None

    def layer(self, name: str) -> Layer | None:
        """The layer ``name``, or None if the method does not have it."""
        return next((layer for layer in self.layers if layer.name == name), None)

    @property
    def worst(self) -> Verdict:
        """The most severe verdict of the layers."""
        return max((layer.verdict for layer in self.layers), key=lambda verdict: verdict.severity)
