"""The interface of a source of features for a probe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch

from ssltool.config import LinclsConfig
from ssltool.data.found import record_of
from ssltool.data.images import ImageSet
from ssltool.data.labels import hold_out
from ssltool.data.shard import Shard
from ssltool.errors import counted
from ssltool.files.stored import weights_hash
from ssltool.settings import Record
from ssltool.stages.lincls.linear_heads import Batches, Linear


class FeatureSource(ABC):
    """Training, held-out and val rows: features (B, width) and class indices (B,), in batches, of which each rank has
    its share.

    Attributes:
        shard: the share of this rank.
        kind: what a row is, for messages: "images" or "representations".
        slow: whether the features are computed in each step, so that progress is printed more often.
        origin: the network and the data of the features.
        width: number of dimensions d.
        classes: labels (C,) of the training rows, in increasing order.
        names: names of the classes of the training rows by label, of those that have one.
        notes: messages about the classes that only the training rows or only the val rows have.
        total_classes: C plus the number of classes that only the val rows have.
        sizes: number of rows: ``train_size``, ``held_size``, ``val_size``.
        identity: hash of the numbers and labels of the training rows.
        contents: hashes of the files of saved features.
        training_images: the images of the training rows, None for saved features and without training.
        val_images: the images of the val rows, None for saved features.
    """

    kind: str
    slow: bool
    shard: Shard
    config: LinclsConfig
    origin: Record
    width: int
    classes: np.ndarray
    names: Mapping[int, str]
    notes: tuple[str, ...]
    total_classes: int
    sizes: dict[str, int]
    identity: str
    contents: Mapping[str, str] = MappingProxyType({})
    training_images: ImageSet | None = None
    val_images: ImageSet | None = None

    @abstractmethod
    def train(self, epoch: int, batch_size: int, first_step: int = 0) -> Batches:
        """The batches of an epoch, starting at ``first_step``; deterministic in the arguments and the seed."""

    @abstractmethod
    def held_out(self) -> Batches:
        """The held-out training rows, in order."""

    @abstractmethod
    def val(self) -> Batches:
        """The val rows, in order."""

    def for_raw_features(self, classifier: Linear) -> Linear:
        """Converts a classifier of the rows of ``train`` to the raw features of ``held_out`` and ``val``.

        The two differ if the training rows are standardised.
        """
        return classifier

    def check(self) -> Record:
        """Checks that the features have not changed since the source was opened, and returns the evidence.

        Raises:
            SSLToolError: if they have.
        """
        return {}

    def facts(self) -> Record:
        """The entries of the result document that describe the data."""
        facts = {**self.sizes, "classes": len(self.classes), "features": self.kind}
        if self.notes:
            facts["notes"] = list(self.notes)
        if "train_size" in self.sizes:
            facts |= {"labels_fraction": self.config.labels_fraction, "standardised": bool(self.config.standardise)}
        if self.opened:
            facts["found"] = [record_of(images) for images in self.opened]
        return facts

    @property
    def opened(self) -> list[ImageSet]:
        """The image sets that were read, for messages and results."""
        return [images for images in (self.training_images, self.val_images) if images is not None]

    @property
    def class_names(self) -> list[str] | None:
        """The names of ``classes``, "" for one without; None if the training rows have no names of classes."""
        return [self.names.get(number, "") for number in self.classes.tolist()] if self.names else None

    def close(self) -> None:  # noqa: B027 - saved features have nothing to stop
        """Stops the processes that decode images."""

    def describe(self) -> str:
        """One line about the number of rows and classes."""
        train = f"{self.sizes['train_size']:,} train {self.kind}, " if "train_size" in self.sizes else ""
        held_out = f"{self.sizes['held_size']:,} held out for selection, " if "held_size" in self.sizes else ""
        unseen = self.total_classes - len(self.classes)
        note = f" ({unseen} of them not in the training data; their rows count as errors)" if unseen else ""
        val = f"{self.sizes['val_size']:,} val {self.kind}, "
        return f"{train}{held_out}{val}{counted(self.total_classes, 'class')}{note}"

    def _split(self, labels: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The positions of the rows to train on and of the held-out rows. Sets ``sizes`` and ``identity``."""
        train, held_out = np.arange(len(labels)), np.arange(0)
        if self.config.chooses:
            train, held_out = hold_out(labels, self.config.holdout, self.config.seed)
        self.sizes["train_size"] = len(train)
        if len(held_out):
            self.sizes["held_size"] = len(held_out)
        rows = {"index": torch.from_numpy(index[train]), "labels": torch.from_numpy(labels[train])}
        self.identity = weights_hash(rows)[:16]
        return train, held_out
