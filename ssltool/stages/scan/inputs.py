"""The inputs of SCAN's steps: network, images and representations, each opened on first use, by all ranks."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ssltool.checkpoints.load import Pretrained, load_pretrained, use_saved_dataset
from ssltool.config import SaveReprsConfig, ScanConfig
from ssltool.data.detection import has_split, layout_of
from ssltool.data.images import ImageSet
from ssltool.data.loader import Loader
from ssltool.data.shard import Shard
from ssltool.errors import SSLToolError
from ssltool.methods import CLASSIFIER
from ssltool.reprs.extract import extract_all
from ssltool.reprs.representation_set import parts_of
from ssltool.reprs.representations import Representations
from ssltool.runs.resume import note_changed_images
from ssltool.settings import Settings
from ssltool.stages.scan.mining import NeighbourTable, mine
from ssltool.training import distributed
from ssltool.training.launch import worker_count
from ssltool.training.open_images import open_images

VAL_NEIGHBOURS = 5
"""Neighbours of each val image in the validation loss of clustering, as in the authors' code."""


class Inputs:
    """The inputs of one invocation on ``device``. ``clusters_path`` is the file of the clustering step, ``shard`` the
    share of this rank."""

    def __init__(self, config: ScanConfig, device: torch.device, shard: Shard, clusters_path: Path) -> None:
        self.config, self.device, self.shard, self.clusters_path = config, device, shard, clusters_path

    @functools.cached_property
    def network(self) -> Pretrained:
        """The pretrained network; with ``--step selflabel``, the network of the clustering step."""
        if self.config.step == "selflabel":
            return self.clustered()
        return load_pretrained(self.config, self.device, ranks=True).with_finite_weights()

    def clustered(self) -> Pretrained:
        """The network of the clustering step.

        Raises:
            SSLToolError: if the file has no classifier.
        """
        changes: Settings = {"pretrained": str(self.clusters_path), "random": False}
        changes |= dict.fromkeys(("arch", "stem", "key"))
        network = load_pretrained(
            dataclasses.replace(self.config, momentum_teacher=False, **changes), self.device, ranks=True
        ).with_finite_weights()
        if network.run.method_name != CLASSIFIER:
            raise SSLToolError(
                f"{self.clusters_path} has the method {network.run.method_name}; it must be {CLASSIFIER}"
            )
        return network

    @functools.cached_property
    def data_config(self) -> ScanConfig:
        """The settings, with the network's own images unless others are given."""
        return use_saved_dataset(self.config, self.network.run)

    @functools.cached_property
    def train(self) -> ImageSet:
        """The images to cluster."""
        images = open_images(self.data_config, "train")
        note_changed_images(self.network, self.config, images)
        if self.config.step == "mine":
            self.network.refuse_unused_flags(images.image_size, crops=False)
        return images

    @functools.cached_property
    def evaluation(self) -> ImageSet:
        """The images to evaluate on: the val split, or the train images if there is none."""
        c = self.data_config
        name = layout_of(c)
        if not distributed.from_rank_zero(lambda: has_split(c, "val")):
            return self.train
        rules = self.train.rules.settings()
        return open_images(dataclasses.replace(c, dataset_type=name, idx_path=None, **rules), "val")

    @property
    def val(self) -> ImageSet | None:
        """The images to evaluate on, unless they are the train images."""
        return None if self.evaluation is self.train else self.evaluation

    @property
    def opened(self) -> list[ImageSet]:
        """The images that have been opened so far."""
        opened = [self.__dict__[name] for name in ("train", "evaluation") if name in self.__dict__]
        return opened[:1] if len(opened) == 2 and opened[0] is opened[1] else opened

    @contextlib.contextmanager
    def loader(self, images: ImageSet) -> Iterator[Loader]:
        """Batches of ``images`` with the network's transform."""
        workers = worker_count(self.config.workers)
        with contextlib.closing(Loader(images, self.network.preprocessing, self.device, workers)) as loader:
            yield loader

    @functools.cached_property
    def train_reprs(self) -> Representations:
        """The representations of the train images."""
        c = self.config
        if c.reprs is None:
            return self._represent(self.train)
        paths, parts = parts_of(c.reprs, lambda path: Representations.load(path, c.pool))
        return parts[0] if len(parts) == 1 else Representations.concatenated(paths, parts)

    @functools.cached_property
    def evaluation_reprs(self) -> Representations:
        """The representations of the images to evaluate on; with ``--reprs``, those of the train images."""
        same = self.config.reprs is not None or self.evaluation is self.train
        return self.train_reprs if same else self._represent(self.evaluation)

    @functools.cached_property
    def evaluation_table(self) -> NeighbourTable | None:
        """The nearest neighbours of the val images among them, by the network's backbone; None if there are no val
        images."""
        if self.val is None:
            return None
        count = min(VAL_NEIGHBOURS, len(self.val) - 1)
        if not count:
            return NeighbourTable(np.zeros((1, 1), np.int64), np.ones(1, np.int64), 1)
        mined = mine(self._represent(self.val), count, self.device, self.shard)
        return NeighbourTable.of(mined, self.val, "the val images")

    def _represent(self, images: ImageSet) -> Representations:
        settings = SaveReprsConfig(workers=self.config.workers)
        return extract_all(self.network, images, settings, self.device, self.shard)

    def cluster_count(self, labels: np.ndarray) -> int:
        """The number of clusters: ``--clusters``, or the number of classes in ``labels``.

        Raises:
            SSLToolError: if ``--clusters`` is not given and there are fewer than two classes.
        """
        classes = len(np.unique(labels[labels >= 0]))
        if self.config.clusters is None and classes < 2:
            raise SSLToolError(f"the images have {classes} known classes; give the number of clusters with --clusters")
        return self.config.clusters or classes


def unit_rows(reprs: Representations) -> np.ndarray:
    """The representations (N, d) scaled to length 1, float32."""
    rows: np.ndarray = torch.nn.functional.normalize(reprs.representations, dim=1).numpy()
    return rows
