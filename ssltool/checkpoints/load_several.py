"""Loads checkpoints that are measured on the same images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from ssltool.checkpoints.load import Pretrained, use_saved_dataset
from ssltool.checkpoints.setting_names import SSLTOOL
from ssltool.config import CheckpointsSettings, NetworkSettings
from ssltool.data.detection import parse_type
from ssltool.data.found import announce
from ssltool.data.images import ImageSet
from ssltool.data.sample import sample_images
from ssltool.training.open_images import open_images
from ssltool.training.ranks import ALONE, Ranks

C = TypeVar("C", bound=NetworkSettings)


def network_settings(config: CheckpointsSettings, path: str, cls: type[C]) -> C:
    """The settings of the class ``cls`` for the checkpoint ``path`` and the images of ``config``."""
    shared = {f.name for f in dataclasses.fields(config)} & {f.name for f in dataclasses.fields(cls)}
    given = {name: getattr(config, name) for name in shared if name not in ("out", "sample")}
    return cls(**given, pretrained=path)


def sampled_images(
    settings: NetworkSettings, config: CheckpointsSettings, first: Pretrained, ranks: Ranks = ALONE
) -> ImageSet:
    """The images that ``settings`` name, by default of the dataset of the network ``first``, at most ``config.sample``
    of them: those of ``save-reprs --sample`` of that network, unless ``config`` has a seed. All ``ranks`` call it."""
    settings = use_saved_dataset(settings, first.run)
    split = config.split or parse_type(settings.dataset_type)[1] or "train"
    images = open_images(settings, split, ranks.from_main)
    announce(images)
    return sample_images(images, config.sample, first.run.seed if config.seed is None else config.seed)


def is_one_run(one: Pretrained, other: Pretrained) -> bool:
    """Whether two checkpoints are of one run, as far as they say: network, method and seed are the same, the epochs are
    not, and either all settings are the same or both files are in one folder."""
    epoch = one.origin["epoch"]
    if epoch is not None and epoch == other.origin["epoch"]:
        return False
    runs = [one.run, other.run]
    if len({(str(r.backbone), r.program, r.method_name, str(r.method), r.seed) for r in runs}) > 1:
        return False
    same_settings = runs[0].program == SSLTOOL and runs[0].settings == runs[1].settings
    folders = {Path(network.origin["checkpoint"]).resolve().parent for network in (one, other)}
    return same_settings or len(folders) == 1


def order_of_epochs(epochs: Sequence[int | None]) -> tuple[list[int], bool]:
    """The order of checkpoints after these ``epochs``: ascending if all are known and differ, else as given; and
    whether they are known."""
    known = len(set(epochs)) == len(epochs) and None not in epochs
    order = list(range(len(epochs)))
    return (sorted(order, key=lambda i: epochs[i] or 0) if known else order), known
