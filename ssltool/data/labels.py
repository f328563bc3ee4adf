"""Labelled train and val images, subsets of the labels, and holdout splits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from ssltool import seeds
from ssltool.config import DataSettings, LabelledSettings
from ssltool.data.detection import parse_type
from ssltool.data.images import ImageSet, open_dataset
from ssltool.data.support import stratified_sample
from ssltool.errors import SSLToolError, counted, first_names

Open = Callable[[DataSettings, str], ImageSet]
"""Opens the images of a split; by default ``open_dataset``."""


def open_labelled(settings: LabelledSettings, open_split: Open = open_dataset) -> tuple[ImageSet, ImageSet]:
    """The labelled train images, restricted by ``--idx-path`` and ``--labels-fraction``, and all labelled val images.

    The val images may have classes that the train images do not have; a note of the val images names them.

    Raises:
        SSLToolError: if a split has no labels, ``--dataset-type`` names a split, or no class is in both.
    """
    _check_no_split(settings)
    train = _labelled(open_split(settings, "train"))
    val = open_labelled_val(dataclasses.replace(settings, **train.rules.settings()), open_split)
    unseen = ~np.isin(val.labels, train.labels)
    if unseen.all():
        raise SSLToolError(
            f"no val image has a class of the train images: train has {_names(train, train.labels)}, val has "
            f"{_names(val, val.labels)}; name the classes alike in both"
        )
    if unseen.any():
        val = val.with_notes(
            f"val has classes that no train image has: {_names(val, val.labels[unseen])}; its "
            f"{counted(int(unseen.sum()), 'image')} of them cannot be predicted and count as errors"
        )
    if settings.labels_fraction < 1:
        train = train.select(stratified_sample(train.labels, settings.labels_fraction, settings.seed))
    return train, val


def open_labelled_val(settings: LabelledSettings, open_split: Open = open_dataset) -> ImageSet:
    """All labelled val images.

    Raises:
        SSLToolError: if they have no labels, or ``--dataset-type`` names a split.
    """
    name = _check_no_split(settings)
    return _labelled(open_split(dataclasses.replace(settings, dataset_type=name, idx_path=None), "val"))


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


def compact(train: ImageSet, val: ImageSet) -> tuple[ImageSet, ImageSet, int]:
    """Both sets with the labels 0 to C - 1 for the C classes of the train images, in the order of their labels.

    Classes that only val has follow. The last value is the number of all classes.
    """
    known = np.unique(train.labels)
    train_labels, _ = class_indices(train.labels, known)
    val_labels, total = class_indices(val.labels, known)
    unseen = np.setdiff1d(val.labels, known)
    names = tuple(_name(val, label) for label in (*known.tolist(), *unseen.tolist()))
    return train.with_labels(train_labels, names[: len(known)]), val.with_labels(val_labels, names), total


def _names(images: ImageSet, labels: np.ndarray) -> str:
    """The names of the classes among ``labels``."""
    return first_names([_name(images, label) for label in np.unique(labels).tolist()])


def _name(images: ImageSet, label: int) -> str:
    return images.classes[label] if label < len(images.classes) else str(label)


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
        why = f", because {images.why_unlabelled}" if images.why_unlabelled else "; DATA must have labelled images"
        raise SSLToolError(f"{images.name} {images.split} has no labels{why}")
    return labelled
