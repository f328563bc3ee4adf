"""A training setup: settings with every default filled in, checked against the images, and what is built from them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ssltool.checkpoints.build import build_method
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.config import PretrainConfig, as_dict
from ssltool.data import views
from ssltool.data.images import ImageSet
from ssltool.data.layouts import LAYOUTS
from ssltool.data.strategies import (
    chunk_too_small_message,
    epoch_indices,
    epoch_subset,
    steps_in_epoch,
)
from ssltool.data.support import Support
from ssltool.errors import SSLToolError, UsageError
from ssltool.files import weights_hash
from ssltool.methods import METHODS
from ssltool.methods.base import Method
from ssltool.models.backbones import plugin_of
from ssltool.training import OPTIMIZERS

DEFAULT_SIZE = 224

# Settings that say how one invocation starts, not what the run is; they are not kept with it.
TRANSIENT = ("resume", "overwrite", "dry_run", "start_epoch", "download")

SMALL_BATCH = 16
"""Images below which batch norm is warned of."""


@dataclass(frozen=True)
class TrainingSetup:
    """``config`` has no open defaults left; ``order`` is the order in which the images arrive; ``recipe`` makes the
    views; ``support`` are the labelled images and ``second`` the trained network that a method may ask for."""

    config: PretrainConfig
    options: Any
    images: ImageSet
    order: np.ndarray
    recipe: views.Recipe
    support: Support | None = None
    second: Checkpoint | None = None

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return int(self.config.epochs or 0)

    @property
    def batch_size(self) -> int:
        """Images in a batch, over all ranks."""
        return int(self.config.batch_size or 0)

    @property
    def image_size(self) -> int:
        """Side of the views in pixels."""
        return int(self.config.image_size or 0)

    @property
    def steps(self) -> int:
        """Steps of every epoch."""
        return steps_in_epoch(len(self.images), self.batch_size, self.config.steps_per_epoch)

    def check_schedule(self) -> None:
        """Makes sure that every epoch can fill a batch.

        Raises:
            SSLToolError: naming the first epoch that cannot.
        """
        c, sizes = self.config, self._epoch_sizes
        short = next((epoch for epoch, size in enumerate(sizes) if size < self.batch_size), None)
        if self.steps and short is not None:
            raise SSLToolError(chunk_too_small_message(c.strategy, short, sizes[short], self.batch_size))

    @property
    def _epoch_sizes(self) -> list[int]:
        return [len(self.subset(epoch)) for epoch in range(self.epochs)]

    def subset(self, epoch: int) -> np.ndarray:
        """The images that an epoch draws from; see ``strategies.epoch_subset``."""
        return epoch_subset(self.order, **self._chunks(epoch))

    def slice(self, epoch: int) -> tuple[int, int]:
        """Where in the order of the data the images of an epoch begin and end."""
        subset = self.subset(epoch)
        return int(self._places[subset[0]]), int(self._places[subset[-1]]) + 1

    @functools.cached_property
    def _places(self) -> np.ndarray:
        """Each image's place in the order."""
        places = np.empty(len(self.order), np.int64)
        places[self.order] = np.arange(len(self.order))
        return places

    def indices(self, epoch: int) -> np.ndarray:
        """The image numbers of one epoch; see ``strategies.epoch_indices``."""
        c = self.config
        return epoch_indices(
            self.order,
            **self._chunks(epoch),
            batch_size=self.batch_size,
            repeat_batch=c.repeat_batch,
            steps_per_epoch=c.steps_per_epoch,
            seed=c.seed,
        )

    def _chunks(self, epoch: int) -> dict[str, Any]:
        c = self.config
        return {
            "strategy": c.strategy,
            "epoch": epoch,
            "epochs": self.epochs,
            "chunk_size": c.chunk_size,
            "n_rounds": c.n_rounds,
        }

    def build_method(self) -> Method:
        """The method with fresh weights, a function of the seed.

        Raises:
            SSLToolError: if its options do not fit the run.
        """
        method = build_method(self.saved_run, self.second)
        if self.config.n_warmup_steps and all(group["is_encoder"] for group in method.param_groups()):
            raise UsageError(
                f"--n-warmup-steps trains the predictor alone, and {self.config.method} has none that learns; drop it"
            )
        return method

    def warnings(self, method: Method) -> list[str]:
        """What is likely to go wrong with these settings, one sentence each."""
        return method.warnings() + self.small_batch_causes(method)

    def small_batch_causes(self, method: Method) -> list[str]:
        """A warning of batches that are too small for the method's batch norms, if they are."""
        has_bn = any(isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) for module in method.modules())
        if not has_bn or self.batch_size >= SMALL_BATCH:
            return []
        return [
            f"batch norm takes its means and variances from batches of {self.batch_size}, which is too few to be "
            f"stable; raise --batch-size to {SMALL_BATCH} or more"
        ]

    @functools.cached_property
    def saved_run(self) -> SavedRun:
        """The run as it goes into ``config.json`` and checkpoints: the settings, and facts about the data.

        It is made once, because it hashes the order and a teacher's weights.
        """
        flags = {f.name for f in dataclasses.fields(self.config) if f.metadata["method_option"]}
        settings = {k: v for k, v in as_dict(self.config).items() if k not in flags.union(TRANSIENT, {"options"})}
        data = None if self.config.data is None else str(Path(self.config.data).resolve())
        second = self.second
        facts = {
            "data": data,  # later stages may run elsewhere
            "method_options": dataclasses.asdict(self.options),
            "dataset": self.images.name,
            "n_images": len(self.images),
            "n_classes": max(0, int(self.images.labels.max()) + 1),
            "epoch_images": min(self._epoch_sizes),
            "second_backbone": second and dataclasses.asdict(second.run.backbone),
            "second_hash": second and weights_hash(second.state_dict),
            "support_hash": None if self.support is None else _hash(self.support.images.index),
            "index_hash": _hash(self.images.index),
            "order_hash": _hash(self.order),
        }
        plugins = self._plugins()
        return SavedRun.read(settings | facts | ({"plugins": plugins} if plugins else {}))

    def _plugins(self) -> list[str]:
        """The plug-ins that registered what this training uses."""
        c = self.config
        used = {
            METHODS.plugin(c.method),
            plugin_of(c.arch),
            OPTIMIZERS.plugin(c.optimizer),
            LAYOUTS.plugin(self.images.name),
            *(self.second.run.plugins if self.second else ()),
        }
        return sorted(name for name in used if name is not None)


def _hash(numbers: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(numbers).tobytes()).hexdigest()[:16]
