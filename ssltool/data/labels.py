"""Labelled images to learn from and to be scored on: whole splits, a fraction of the labels, a part held out."""

from __future__ import annotations

import dataclasses

import numpy as np

from ssltool import seeds
from ssltool.config import LabelledSettings
from ssltool.data.images import ImageSet, open_dataset, parse_type
from ssltool.data.support import labelled_rows
from ssltool.errors import SSLToolError


def open_labelled(settings: LabelledSettings) -> tuple[ImageSet, ImageSet]:
    """The labelled train images, of which ``--idx-path`` and ``--labels-fraction`` may choose some, and all labelled
    val images.

    Raises:
        SSLToolError: if a split has no labels, ``--dataset-type`` names one split, or val has classes that train has
            not.
    """
    _refuse_one_split(settings)
    train, val = _labelled(open_dataset(settings, "train")), open_scored(settings)
    if int(val.labels.max()) > int(train.labels.max()):
        raise SSLToolError(
            f"the val images have classes beyond the {int(train.labels.max()) + 1} of the train images; check the "
            "folders"
        )
    if settings.labels_fraction < 1:
        train = train.select(labelled_rows(train.labels, settings.labels_fraction, settings.seed))
    return train, val


def open_scored(settings: LabelledSettings) -> ImageSet:
    """All labelled val images.

    Raises:
        SSLToolError: if they have no labels, or ``--dataset-type`` names one split.
    """
    name = _refuse_one_split(settings)
    return _labelled(open_dataset(dataclasses.replace(settings, dataset_type=name, idx_path=None), "val"))


def hold_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows held out, ``share`` of each class and at least one, both in order; a function of the
    seed. A class with one row keeps it.

    Raises:
        SSLToolError: if nothing can be held out.
    """
    held = labelled_rows(labels, share, seed, stream=seeds.Stream.HOLDOUT, leave=1)
    if not len(held):
        raise SSLToolError("no class has two labelled images, so none can be held out to choose settings on")
    return np.setdiff1d(np.flatnonzero(labels >= 0), held), held


def places(labels: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, int]:
    """Each label's place among the classes ``known``, and how many classes there are in all: labels that are not among
    them get the places behind, where no score of a classifier for ``known`` can be right."""
    names = np.concatenate([known, np.setdiff1d(labels, known)])
    order = names.argsort()
    return order[np.searchsorted(names, labels, sorter=order)], len(names)


def _refuse_one_split(settings: LabelledSettings) -> str:
    """The dataset's name, whose splits are both meant."""
    name, split, _ = parse_type(settings.dataset_type)
    if split is not None:
        raise SSLToolError(
            f"--dataset-type {settings.dataset_type} names one split, but this learns from train and is scored on val; "
            f"give {name}"
        )
    return name


def _labelled(images: ImageSet) -> ImageSet:
    labelled = images.select(np.flatnonzero(images.labels >= 0))
    if not len(labelled):
        raise SSLToolError(f"{images.name} {images.split} has no labels; labelled images are needed as DATA")
    return labelled
