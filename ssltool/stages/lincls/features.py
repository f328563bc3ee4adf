"""The features that a probe is trained and scored on, in batches, wherever they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch

from ssltool.config import LinclsConfig
from ssltool.data.labels import hold_out
from ssltool.files import Record, weights_hash
from ssltool.stages.lincls.linear_heads import Batches, Linear


class FeatureSource(ABC):
    """Features and classes: some to train on, some held out of these for selection, some to be scored on.

    ``classes`` (C,) are the labels of the training rows, in order; ``counted``, at least C, is the number of classes
    with those that only occur in what is scored. ``origin`` says what made the features.
    """

    kind: str
    slow: bool  # whether a step takes long enough to wait for
    config: LinclsConfig
    origin: Record
    width: int
    classes: np.ndarray
    counted: int
    sizes: dict[str, int]
    identity: str

    @abstractmethod
    def train(self, epoch: int, batch_size: int, first_step: int = 0) -> Batches:
        """The steps of an epoch from ``first_step`` on; a function of the arguments and the seed."""

    @abstractmethod
    def held(self) -> Batches:
        """What was held out of the training rows, once, in order."""

    @abstractmethod
    def val(self) -> Batches:
        """What is scored, once, in order."""

    def of_features(self, classifier: Linear) -> Linear:
        """A classifier of what ``train`` gives as one of the features themselves, as ``held`` and ``val`` give them."""
        return classifier

    def check(self) -> Record:
        """Checks that the features have not changed since the source was opened, and returns what shows it.

        Raises:
            SSLToolError: if they have.
        """
        return {}

    def facts(self) -> Record:
        """The entries of the result that describe the data."""
        facts = {**self.sizes, "classes": len(self.classes), "features": self.kind}
        if "train_size" in self.sizes:
            facts |= {"labels_fraction": self.config.labels_fraction, "standardised": bool(self.config.standardise)}
        return facts

    def close(self) -> None:  # noqa: B027 - saved features have nothing to stop
        """Stops the processes that read images."""

    def describe(self) -> str:
        """One line for people: the sizes of what is trained on and what is scored."""
        trained = f"{self.sizes['train_size']:,} {self.kind} to train on, " if "train_size" in self.sizes else ""
        held = f"{self.sizes['held_size']:,} held out for selection, " if "held_size" in self.sizes else ""
        unseen = self.counted - len(self.classes)
        unknown = f"; {unseen} of them have no training rows and count as wrong" if unseen else ""
        return f"{trained}{held}{self.sizes['val_size']:,} to be scored, {self.counted} classes{unknown}"

    def _choose(self, labels: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of labelled rows, those to train on and those held out."""
        kept, held = np.arange(len(labels)), np.arange(0)
        if self.config.chooses:
            kept, held = hold_out(labels, self.config.holdout, self.config.seed)
        self.sizes["train_size"] = len(kept)
        if len(held):
            self.sizes["held_size"] = len(held)
        chosen = {"index": torch.from_numpy(index[kept]), "labels": torch.from_numpy(labels[kept])}
        self.identity = weights_hash(chosen)[:16]
        return kept, held
