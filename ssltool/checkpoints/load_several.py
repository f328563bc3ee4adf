"""Loads checkpoints that are measured on the same images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from ssltool import seeds
from ssltool.config import CheckpointsSettings, NetworkSettings
from ssltool.data.detection import parse_type
from ssltool.data.found import announce
from ssltool.data.images import ImageSet, open_dataset

C = TypeVar("C", bound=NetworkSettings)


def network_settings(config: CheckpointsSettings, path: str, cls: type[C]) -> C:
    """The settings of the class ``cls`` for the checkpoint ``path`` and the images of ``config``."""
    shared = {f.name for f in dataclasses.fields(config)} & {f.name for f in dataclasses.fields(cls)}
    given = {name: getattr(config, name) for name in shared if name not in ("out", "sample")}
    return cls(**given, pretrained=path)


def sampled_images(settings: NetworkSettings, config: CheckpointsSettings) -> ImageSet:
    """The images that ``settings`` name, at most ``config.sample`` of them, drawn with the seed of ``config``."""
    images = open_dataset(settings, config.split or parse_type(settings.dataset_type)[1] or "train")
    announce(images)
    drawn = np.random.RandomState(seeds.derive(config.seed) % 2**32).permutation(len(images))[: config.sample]
    return images.select(np.sort(drawn))


def order_of_epochs(epochs: Sequence[int | None]) -> tuple[list[int], bool]:
    """The order of checkpoints after these ``epochs``: ascending if all are known and differ, else as given; and
    whether they are known."""
    known = len(set(epochs)) == len(epochs) and None not in epochs
    order = list(range(len(epochs)))
    return (sorted(order, key=lambda i: epochs[i] or 0) if known else order), known
