"""Features from files of representations: they are the same in every epoch, which makes training fast."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssltool.config import LinclsConfig
from ssltool.data.images import MEMORY_LIMIT
from ssltool.data.labels import class_indices
from ssltool.data.support import stratified_sample
from ssltool.errors import SSLToolError, UsageError
from ssltool.reprs.representation_set import NETWORK_KEYS, SPLIT_KEYS, RepresentationSet, check_same_network
from ssltool.stages.lincls.features import FeatureSource
from ssltool.stages.lincls.linear_heads import Batches, Linear
from ssltool.training import distributed
from ssltool.training.classification import epoch_order
from ssltool.training.precision import widest_float

ROWS_AT_ONCE = 8192
"""Rows in a batch that is only scored."""

TINY = 1e-7
"""A dimension that varies by less than this share of its mean is constant in float32."""

ORIGIN = ("checkpoint", "program", "method", "arch", "stem", "strategy", "epoch", "dataset", *NETWORK_KEYS)
"""What the meta of representations says of the network that made them."""


class SavedFeatures(FeatureSource):
    """Representations from files, as they are: the same in every epoch."""

    kind = "representations"
    slow = False

    def __init__(self, config: LinclsConfig, device: torch.device, known: np.ndarray | None = None) -> None:
        if distributed.under_torchrun():
            raise SSLToolError("this stage runs in one process; start it without torchrun")
        self.config, self.device = config, device
        names = config.reprs or ()
        if len(names) != 2 or Path(names[0]).resolve() == Path(names[1]).resolve():
            raise UsageError("--reprs takes two different files: one to learn from, and one to be scored on")
        train, val = map(_labelled, names)
        check_same_network(train, val)
        self.width = train.rows.width
        if val.rows.width != self.width:
            raise SSLToolError(
                f"the files of --reprs are {self.width} and {val.rows.width} wide; save both with one network and layer"
            )
        _refuse_repeats(train, val)
        self.origin = dict.fromkeys(("checkpoint", *NETWORK_KEYS)) | {"random": False}
        self.origin |= {key: value for key, value in val.meta.items() if key in ORIGIN}
        self.classes = np.unique(train.targets.numpy()) if known is None else known
        numbers, self.counted = class_indices(val.targets.numpy(), self.classes)
        self.sizes = {"val_size": len(val)}
        self._val = val.rows.block(0, len(val)), torch.from_numpy(numbers)
        if known is None:
            self._set_training_rows(train)

    def _set_training_rows(self, train: RepresentationSet) -> None:
        """Keeps the training rows: a share of the labels, without the held-out rows, and standardised if asked for."""
        config = self.config
        rows, labels, index = train.rows.block(0, len(train)), train.targets.numpy(), train.index.numpy()
        if config.labels_fraction < 1:
            sampled = stratified_sample(labels, config.labels_fraction, config.seed)
            rows, labels, index = rows[torch.from_numpy(sampled)], labels[sampled], index[sampled]
        self._kept, self._held = map(torch.from_numpy, self._choose(labels, index))
        self._raw, self._numbers = rows.float(), torch.from_numpy(class_indices(labels, self.classes)[0])
        standardise = config.solver == "lbfgs" if config.standardise is None else config.standardise
        self.config = dataclasses.replace(config, standardise=standardise)
        self._scale = _scale(self._raw) if standardise else None
        self._rows = self._raw if self._scale is None else _standardised(self._raw, *self._scale)
        if self.device.type == "cuda" and self._rows.nbytes <= MEMORY_LIMIT:
            self._rows, self._numbers = self._rows.to(self.device), self._numbers.to(self.device)

    def train(self, epoch: int, batch_size: int, first_step: int = 0) -> Batches:
        order = self._kept[torch.from_numpy(epoch_order(len(self._kept), self.config.seed, epoch))]
        for start in range(first_step * batch_size, len(order), batch_size):
            rows = order[start : start + batch_size].to(self._rows.device)
            yield self._rows[rows].to(self.device), self._numbers[rows].to(self.device)

    def matrix(self, *, everything: bool) -> tuple[Tensor, Tensor]:
        """The training rows and the places of their classes; with ``everything`` also those that are held out."""
        if everything or not len(self._held):
            return self._rows, self._numbers
        kept = self._kept.to(self._rows.device)
        return self._rows[kept], self._numbers[kept]

    def held(self) -> Batches:
        held = self._held.to(self._numbers.device)
        return self._in_order(self._raw[self._held], self._numbers[held])

    def val(self) -> Batches:
        return self._in_order(*self._val)

    def of_features(self, classifier: Linear) -> Linear:
        if self._scale is None:
            return classifier
        # In float64: where the mean is far larger than the deviations, as in collapse, float32 would lose the classes.
        weight, bias = (tensor.to(widest_float(self.device)) for tensor in classifier)
        mean, deviation = (tensor.to(weight) for tensor in self._scale)
        weight = weight / deviation
        return weight, bias - weight @ mean

    def _in_order(self, rows: Tensor, numbers: Tensor) -> Batches:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            yield rows[part].to(self.device).float(), numbers[part].to(self.device)


def _labelled(name: str) -> RepresentationSet:
    saved = RepresentationSet.open(name)
    known = saved.targets >= 0
    if not bool(known.any()):
        raise SSLToolError(f"{name} has no labels; save representations of labelled images")
    return saved.keep(known)


def _refuse_repeats(train: RepresentationSet, val: RepresentationSet) -> None:
    """Refuses training rows among the rows to be scored."""
    a, b = train.meta, val.meta
    repeated = int(torch.isin(val.index, train.index).sum())
    if repeated and all(key in a and a[key] == b.get(key) for key in SPLIT_KEYS):
        raise SSLToolError(
            f"{repeated:,} of {len(val):,} rows to be scored are training images: both files are of "
            f"{a['dataset']} {a['split']}; save the val images for the second"
        )


def _scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the deviation (d,) of the dimensions of ``x`` (N, d), float64; 1 for what does not vary."""
    blocks = [slice(low, low + ROWS_AT_ONCE) for low in range(0, len(x), ROWS_AT_ONCE)]
    mean = torch.stack([x[block].double().sum(dim=0) for block in blocks]).sum(dim=0) / len(x)
    squares = torch.stack([(x[block].double() - mean).square().sum(dim=0) for block in blocks]).sum(dim=0)
    deviation = (squares / len(x)).sqrt()
    return mean, torch.where(deviation > TINY * mean.abs(), deviation, 1.0)


def _standardised(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    rows = torch.empty_like(x)
    for low in range(0, len(x), ROWS_AT_ONCE):
        block = slice(low, low + ROWS_AT_ONCE)
        rows[block] = (x[block].double() - mean) / deviation
    return rows
