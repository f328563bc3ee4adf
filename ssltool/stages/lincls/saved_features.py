"""Features from files of representations."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ssltool.config import LinclsConfig
from ssltool.data.image_files import MEMORY_LIMIT
from ssltool.data.labels import class_indices
from ssltool.data.shard import ONE_PROCESS, Shard
from ssltool.data.support import stratified_sample
from ssltool.errors import SSLToolError, UsageError
from ssltool.files.stored import weights_hash
from ssltool.reprs.class_names import Labels, match_classes
from ssltool.reprs.representation_set import (
    NETWORK_KEYS,
    RepresentationSet,
    check_same_network,
    transform_notes,
)
from ssltool.reprs.same_images import image_ids
from ssltool.stages.lincls.features import FeatureSource
from ssltool.stages.lincls.linear_heads import Batches, Linear
from ssltool.training import distributed
from ssltool.training.classification import epoch_order
from ssltool.training.precision import widest_float

BLOCK_ROWS = 8192
"""Rows in a batch for evaluation, and in a block of the statistics."""

TINY = 1e-7
"""A dimension whose standard deviation relative to its mean is below this is constant in float32."""

LARGEST = 1e17
"""Above this, the gradient of a probe may overflow in float32."""

ORIGIN_KEYS = (
    *("checkpoint", "program", "method", "arch", "stem", "strategy", "epoch", "dataset", "preprocessing"),
    *NETWORK_KEYS,
)
"""Keys in the meta of representations that describe their network."""


class SavedFeatures(FeatureSource):
    """Representations from two files, the same in every epoch; standardised for training if requested."""

    kind = "representations"
    slow = False

    def __init__(
        self, config: LinclsConfig, device: torch.device, shard: Shard = ONE_PROCESS, known: Labels | None = None
    ) -> None:
        self.config, self.device, self.shard = config, device, shard
        with distributed.raise_on_all_ranks():
            self._read(config, known)
        if known is None:
            self._prepare()

    def _read(self, config: LinclsConfig, known: Labels | None) -> None:
        """Opens the files, and selects the rows."""
        names = config.reprs or ()
        if len(names) != 2 or os.path.realpath(names[0]) == os.path.realpath(names[1]):
            raise UsageError("--reprs takes two different files: one to train on and one to evaluate on")
        train, val = (_labelled(name, config.pool) for name in names)
        check_same_network(train, val)
        self.width = train.rows.width
        if val.rows.width != self.width:
            raise SSLToolError(
                f"the files of --reprs have rows of width {self.width} and {val.rows.width}; "
                "save both from the same network and layer"
            )
        reference = train.labels if known is None else known
        matched = match_classes(reference, val.labels, config.labels_by)
        self.names, self.notes = reference.names, (*matched.notes, *transform_notes(train.meta, val.meta))
        val = dataclasses.replace(val, targets=matched.numbers)
        _refuse_repeats(train, val, config.same_images)
        self.origin = dict.fromkeys(("checkpoint", *NETWORK_KEYS)) | {"random": False}
        self.origin |= {key: value for key, value in val.meta.items() if key in ORIGIN_KEYS}
        self.classes = np.unique(train.targets.numpy()) if known is None else known.numbers.numpy()
        targets, self.total_classes = class_indices(val.targets.numpy(), self.classes)
        self.sizes = {"val_size": len(val)}
        self._val = val.rows.block(0, len(val)), torch.from_numpy(targets)
        if known is None:
            self.contents = {"train_contents": _contents_hash(train), "val_contents": _contents_hash(val)}
            self._select(train)

    def _select(self, train: RepresentationSet) -> None:
        """Selects the labelled fraction of the training rows and splits off the held-out ones."""
        config = self.config
        rows, labels, index = train.rows.block(0, len(train)), train.targets.numpy(), train.index.numpy()
        if config.labels_fraction < 1:
            sample = stratified_sample(labels, config.labels_fraction, config.seed)
            rows, labels, index = rows[torch.from_numpy(sample)], labels[sample], index[sample]
        self._train_rows, self._held_out_rows = map(torch.from_numpy, self._split(labels, index))
        self._raw, self._targets = rows.float(), torch.from_numpy(class_indices(labels, self.classes)[0])
        standardise = config.solver == "lbfgs" if config.standardise is None else config.standardise
        if not standardise and max(map(abs, map(float, self._raw.aminmax()))) > LARGEST:
            raise SSLToolError(
                f"{train.name} has values above {LARGEST:g}, whose squares float32 cannot hold; add --standardise, or "
                "divide the rows by a constant"
            )
        self.config = dataclasses.replace(config, standardise=standardise)

    def _prepare(self) -> None:
        """Standardises the training rows if requested; of several ranks, each sums its share of them."""
        self._scale = _mean_and_deviation(self._raw, self.shard) if self.config.standardise else None
        self._rows = self._raw
        if self.config.solver == "sgd" or self.shard.world == 1:
            self._rows = self._prepared(self._raw)
            self._targets = self._targets.to(self._rows.device)

    def _prepared(self, rows: Tensor) -> Tensor:
        """Raw training ``rows``, standardised if requested, and on the device if they fit."""
        rows = rows if self._scale is None else _standardised(rows, *self._scale)
        return rows.to(self.device) if self.device.type == "cuda" and rows.nbytes <= MEMORY_LIMIT else rows

    def train(self, epoch: int, batch_size: int, first_step: int = 0) -> Batches:
        order = self._train_rows[torch.from_numpy(epoch_order(len(self._train_rows), self.config.seed, epoch))]
        for start in range(first_step * batch_size, len(order), batch_size):
            rows = order[start : start + batch_size]
            rows = rows[self.shard.slice(len(rows))].to(self._rows.device)
            yield self._rows[rows].to(self.device), self._targets[rows].to(self.device)

    def matrix(self, *, with_held_out: bool) -> tuple[Tensor, Tensor]:
        """This rank's slice of the N training rows, (n, d), and the class indices of all of them, (N,), with or without
        the held-out rows."""
        whole, rows = with_held_out or not len(self._held_out_rows), self._train_rows.to(self._rows.device)
        targets = self._targets if whole else self._targets[rows]
        own = self.shard.slice(len(targets))
        if self.shard.world > 1:  # each rank has its share only in memory
            return self._prepared(self._raw[own if whole else rows[own]]), targets
        return self._rows if whole else self._rows[rows], targets

    def held_out(self) -> Batches:
        rows = self._held_out_rows[self.shard.slice(len(self._held_out_rows))]
        return self._in_order(self._raw[rows], self._targets[rows.to(self._targets.device)])

    def val(self) -> Batches:
        rows, targets = self._val
        own = self.shard.slice(len(rows))
        return self._in_order(rows[own], targets[own])

    def for_raw_features(self, classifier: Linear) -> Linear:
        if self._scale is None:
            return classifier
        # float32 would cancel if the mean is far larger than the deviations, as in collapse.
        weight, bias = (tensor.to(widest_float(self.device)) for tensor in classifier)
        mean, deviation = (tensor.to(weight) for tensor in self._scale)
        weight = weight / deviation
        return weight, bias - weight @ mean

    def _in_order(self, rows: Tensor, targets: Tensor) -> Batches:
        for block in _blocks(len(rows)):
            yield rows[block].to(self.device).float(), targets[block].to(self.device)


def _labelled(name: str, pool: str | None) -> RepresentationSet:
    saved = RepresentationSet.open(name, pool)
    known = saved.targets >= 0
    if not bool(known.any()):
        raise SSLToolError(f"{name} has no labels: {saved.why_unlabelled}")
    return saved.keep(known)


def _contents_hash(saved: RepresentationSet) -> str:
    """The hash of the images of a file, or of its rows if their contents are not known, and of their labels."""
    contents = saved.rows.block(0, len(saved)) if saved.digests is None else saved.digests
    return weights_hash({"contents": contents, "index": saved.index, "labels": saved.targets})[:16]


def _refuse_repeats(train: RepresentationSet, val: RepresentationSet, by: str) -> None:
    """Raises ``SSLToolError`` if val rows are of images that are also training rows."""
    ids = image_ids(train, val, by)
    repeated = 0 if ids is None else int(ids.shared.sum())
    if ids is not None and repeated:
        of = f"{train.meta.get('dataset')} {train.meta.get('split')}{ids.why and f' ({ids.why})'}"
        raise SSLToolError(
            f"{repeated:,} of {len(val):,} val rows are also training rows: both files of --reprs are of {of}; save "
            "the val split for the second"
        )


def _blocks(count: int) -> list[slice]:
    return [slice(start, start + BLOCK_ROWS) for start in range(0, count, BLOCK_ROWS)]


def _mean_and_deviation(x: Tensor, shard: Shard = ONE_PROCESS) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (d,) of each dimension of ``x`` (N, d), float64; 1 for constant dimensions. Each rank
    sums its slice of the rows."""
    own = x[shard.slice(len(x))]

    def mean_of(terms: Callable[[Tensor], Tensor]) -> Tensor:
        sums = [terms(own[block].double()).sum(dim=0) for block in _blocks(len(own))]
        total = torch.stack(sums or [torch.zeros(x.shape[1], dtype=torch.float64)]).sum(dim=0)
        distributed.all_reduce_sum(total)
        return total / len(x)

    mean = mean_of(lambda rows: rows)
    deviation = mean_of(lambda rows: (rows - mean).square()).sqrt()
    return mean, torch.where(deviation > TINY * mean.abs(), deviation, 1.0)


def _standardised(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    rows = torch.empty_like(x)
    for block in _blocks(len(x)):
        rows[block] = (x[block].double() - mean) / deviation
    return rows
