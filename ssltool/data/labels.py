"""Labelled train and val images, subsets of the labels, and holdout splits."""

from __future__ import annotations

import dataclasses

import numpy as np

from ssltool import seeds
from ssltool.config import LabelledSettings
from ssltool.data.images import ImageSet, open_dataset, parse_type
from ssltool.data.support import stratified_sample
from ssltool.errors import SSLToolError


def open_labelled(settings: LabelledSettings) -> tuple[ImageSet, ImageSet]:
    """The labelled train images, restricted by ``--idx-path`` and ``--labels-fraction``, and all labelled val images.

    Raises:
        SSLToolError: if a split has no labels, ``--dataset-type`` names a split, or val has classes that are not in
            train.
    """
    _check_no_split(settings)
    train = _labelled(open_dataset(settings, "train"))
    val = open_labelled_val(dataclasses.replace(settings, **train.rules.settings()))
    largest, known = int(val.labels.max()), int(train.labels.max())
    if largest > known:
        raise SSLToolError(
            f"the val images have labels up to {largest}, but the train images only up to {known}; check the folders"
        )
    if settings.labels_fraction < 1:
        train = train.select(stratified_sample(train.labels, settings.labels_fraction, settings.seed))
    return train, val


def open_labelled_val(settings: LabelledSettings) -> ImageSet:
    """All labelled val images.

    Raises:
        SSLToolError: if they have no labels, or ``--dataset-type`` names a split.
    """
    name = _check_no_split(settings)
    return _labelled(open_dataset(dataclasses.replace(settings, dataset_type=name, idx_path=None), "val"))


def hold_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Stratified split into training and holdout rows, both sorted; deterministic in the seed.

    The holdout has a fraction ``share`` of each class, at least one row. A class with a single row is not held out.

    Raises:
        SSLToolError: if no row can be held out.
    """
    held = stratified_sample(labels, share, seed, stream=seeds.Stream.HOLDOUT, reserve=1)
    if not len(held):
        raise SSLToolError("a holdout requires a class with at least two labelled images; found none")
    return np.setdiff1d(np.flatnonzero(labels >= 0), held), held


def class_indices(labels: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, int]:
    """The class index of each label, and the number of classes.

    Labels in ``known`` get their index in ``known``. Other labels get larger indices, which a classifier of ``known``
    never predicts.
    """
    names = np.concatenate([known, np.setdiff1d(labels, known)])
    order = names.argsort()
    return order[np.searchsorted(names, labels, sorter=order)], len(names)


def _check_no_split(settings: LabelledSettings) -> str:
    """The name of the dataset; ``--dataset-type`` must not name a split."""
    name, split, _ = parse_type(settings.dataset_type)
    if split is not None:
        raise SSLToolError(
            f"--dataset-type {settings.dataset_type} names a split, but this command trains on train and evaluates on "
            f"val; use {name}"
        )
    return name


def _labelled(images: ImageSet) -> ImageSet:
    labelled = images.select(np.flatnonzero(images.labels >= 0))
    if not len(labelled):
        raise SSLToolError(f"{images.name} {images.split} has no labels; DATA must have labelled images")
    return labelled
