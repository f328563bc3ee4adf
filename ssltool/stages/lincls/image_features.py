"""Features of labelled images from a frozen network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch

from ssltool.checkpoints.load import load_pretrained, use_saved_dataset
from ssltool.config import LinclsConfig
from ssltool.data import views
from ssltool.data.images import ImageSet
from ssltool.data.labels import class_indices, open_labelled, open_labelled_val
from ssltool.data.loader import Batch, Loader
from ssltool.data.shard import ONE_PROCESS, Shard
from ssltool.errors import SSLToolError
from ssltool.files.stored import weights_hash
from ssltool.reprs.class_names import Labels, match_classes
from ssltool.runs.resume import note_changed_images
from ssltool.settings import Record
from ssltool.stages.lincls.features import FeatureSource
from ssltool.stages.lincls.linear_heads import Batches
from ssltool.training import distributed
from ssltool.training.classification import epoch_order
from ssltool.training.launch import worker_count
from ssltool.training.open_images import open_images

EVAL_BATCH_SIZE = 256
"""Images in a batch for evaluation."""


class ImageFeatures(FeatureSource):
    """The outputs of a frozen network in eval mode for labelled images, with random crops and flips in training."""

    kind = "images"
    slow = True

    def __init__(
        self, config: LinclsConfig, device: torch.device, shard: Shard = ONE_PROCESS, known: Labels | None = None
    ) -> None:
        self.shard = shard
        network = load_pretrained(config, device, ranks=True).with_finite_weights()
        given, config = config, use_saved_dataset(config, network.run, train=known is None)
        self.config = config
        self.method = network.method.eval().requires_grad_(False)
        self.origin = network.origin | {"layer": "backbone"}
        self.width = network.method.backbone_dim
        train: ImageSet | None = None
        if known is None:
            train, val = open_labelled(config, open_images)
            note_changed_images(network, given, train)
            network.refuse_unused_flags(val.image_size, crops=True)
            resolved = train.rules.settings() | network.preprocessing.settings()
            self.config = config = dataclasses.replace(config, **resolved)
            self.classes, self.names, self.notes = np.unique(train.labels), _names(train), ()
            labels = val.labels
        else:
            val = open_labelled_val(config, open_images)
            matched = match_classes(known, Labels("val", torch.from_numpy(val.labels), _names(val)), config.labels_by)
            self.classes, self.names, self.notes = known.numbers.numpy(), known.names, matched.notes
            labels = matched.numbers.numpy()
        self.training_images, self.val_images = train, val
        targets, self.total_classes = class_indices(labels, self.classes)
        self.sizes = {"val_size": len(val)}
        self._hash = weights_hash(self.method.backbone.state_dict())

        def loader(images: ImageSet) -> Loader:
            return Loader(images, network.preprocessing, device, worker_count(config.workers))

        self._loaders = {"val": loader(dataclasses.replace(val, labels=targets))}
        if train is not None:
            rows, held_out = self._split(train.labels, train.index)
            train = train.with_labels(class_indices(train.labels, self.classes)[0], train.classes)
            self._loaders["train"] = loader(train.select(rows))
            if len(held_out):
                self._loaders["held_out"] = loader(train.select(held_out))

    def train(self, epoch: int, batch_size: int, first_step: int = 0) -> Batches:
        loader, seed = self._loaders["train"], self.config.seed
        order = epoch_order(len(loader.images), seed, epoch)
        schedule = {"batch_size": batch_size, "seed": seed, "epoch": epoch, "first_step": first_step}
        return self._embed(loader.train(order, [views.PROBE], **schedule, shard=self.shard))

    def held_out(self) -> Batches:
        return self._embed(self._loaders["held_out"].evaluate(EVAL_BATCH_SIZE, shard=self.shard))

    def val(self) -> Batches:
        return self._embed(self._loaders["val"].evaluate(EVAL_BATCH_SIZE, shard=self.shard))

    def check(self) -> Record:
        if weights_hash(self.method.backbone.state_dict()) != self._hash:
            raise SSLToolError("the frozen backbone changed while the probe was trained; its accuracy would be invalid")
        return {"backbone_unchanged": True, "backbone_hash": self._hash}

    def close(self) -> None:
        for loader in self._loaders.values():
            loader.close()

    def _embed(self, batches: Iterator[Batch]) -> Batches:
        for batch in distributed.together(batches):
            with torch.no_grad():
                view = batch.views[0].contiguous(memory_format=torch.channels_last)
                features = self.method.embed(view, "backbone")
            yield batch.without_padding(features), batch.without_padding(batch.labels)


def _names(images: ImageSet) -> dict[int, str]:
    return dict(enumerate(images.classes))
