"""What SCAN's steps start from: the network, the images, their representations. Each is opened when first needed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssltool.checkpoints.load import Pretrained, load_pretrained, use_saved_dataset
from ssltool.config import SaveReprsConfig, ScanConfig
from ssltool.data.images import ImageSet, detect, open_dataset, parse_type
from ssltool.data.loader import Loader
from ssltool.errors import SSLToolError
from ssltool.methods import CLASSIFIER
from ssltool.reprs.extract import extract_all
from ssltool.reprs.representations import Representations
from ssltool.training.device import pick_device, worker_count


class Inputs:
    """Of one invocation. ``clusters_path`` is where a clustered network lies, or will."""

    def __init__(self, config: ScanConfig, clusters_path: Path) -> None:
        self.config, self.clusters_path = config, clusters_path
        self.device = pick_device(config)

    @functools.cached_property
    def network(self) -> Pretrained:
        """The pretrained network; for self-labelling alone the clustered one, which knows what it was made from."""
        return self.clustered() if self.config.step == "selflabel" else load_pretrained(self.config, self.device)

    def clustered(self) -> Pretrained:
        """The network of the second step.

        Raises:
            SSLToolError: if the file holds something else than a classifier.
        """
        own: dict[str, Any] = {"pretrained": str(self.clusters_path), "arch": None, "stem": None, "random": False}
        network = load_pretrained(dataclasses.replace(self.config, **own), self.device)
        if network.run.method_name != CLASSIFIER:
            raise SSLToolError(f"{self.clusters_path} is of {network.run.method_name}; it has to be a classifier's")
        return network

    @functools.cached_property
    def data(self) -> ScanConfig:
        """The settings with the images that the network was trained on, where none are named."""
        return use_saved_dataset(self.config, self.network.run)

    @functools.cached_property
    def train(self) -> ImageSet:
        """The images that are clustered."""
        return open_dataset(self.data, "train")

    @functools.cached_property
    def scored(self) -> ImageSet:
        """The images that are scored: val, or where there is no such split the clustered ones."""
        c = self.data
        name = parse_type(c.dataset_type)[0]
        name = detect(c.data) if name == "auto" else name
        if name in ("folder", "images") or (name == "imagenet" and not (Path(str(c.data)) / "val").is_dir()):
            return self.train
        return open_dataset(dataclasses.replace(c, dataset_type=name, idx_path=None), "val")

    @contextlib.contextmanager
    def loader(self, images: ImageSet) -> Iterator[Loader]:
        """Batches of ``images`` at the network's input size."""
        workers = worker_count(self.config.workers)
        with contextlib.closing(Loader(images, self.network.image_size, self.device, workers)) as loader:
            yield loader

    @functools.cached_property
    def rows(self) -> Representations:
        """The representations of the train images."""
        return Representations.load(self.config.reprs) if self.config.reprs else self._represent(self.train)

    @functools.cached_property
    def scored_rows(self) -> Representations:
        """The representations of the images that are scored; those of ``--reprs`` themselves."""
        own = self.config.reprs is not None or self.scored is self.train
        return self.rows if own else self._represent(self.scored)

    def _represent(self, images: ImageSet) -> Representations:
        own = SaveReprsConfig(workers=self.config.workers)
        return extract_all(self.network, images, own, self.device)

    def count(self, labels: np.ndarray) -> int:
        """How many clusters are to be made, of images with these ``labels``.

        Raises:
            SSLToolError: if neither the settings nor the labels say it.
        """
        classes = len(np.unique(labels[labels >= 0]))
        if self.config.clusters is None and classes < 2:
            raise SSLToolError(f"the images have {classes} known classes, so say how many --clusters to make")
        return self.config.clusters or classes


def unit(rows: Representations) -> np.ndarray:
    """Rows at length 1, as cosine compares them, float32."""
    made: np.ndarray = torch.nn.functional.normalize(rows.representations, dim=1).numpy()
    return made
