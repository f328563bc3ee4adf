"""The setup of training: resolved settings, the images, their order, and the method that is built from them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import nn

from ssltool import seeds
from ssltool.checkpoints.build import build_method
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.config import PretrainConfig, as_dict
from ssltool.data import views
from ssltool.data.computed_orders import ComputedOrder, KeyedPermutation, Order
from ssltool.data.detection import absolute
from ssltool.data.found import record_of
from ssltool.data.image_files import SAMPLE_HEADERS, identical
from ssltool.data.images import ImageSet
from ssltool.data.layouts import LAYOUTS
from ssltool.data.preprocessing import Preprocessing
from ssltool.data.shard import Shard
from ssltool.data.strategies import (
    chunk_too_small_message,
    epoch_indices,
    epoch_parts,
    epoch_subset,
    few_steps_notes,
    read_numbers,
    steps_in_epoch,
)
from ssltool.data.support import Support
from ssltool.errors import SSLToolError, UsageError, counted
from ssltool.files.stored import weights_hash
from ssltool.methods import METHODS, method_class
from ssltool.methods.base import Method
from ssltool.methods.options import MethodOptions
from ssltool.methods.regularisers import REGULARISERS, Term, read_terms
from ssltool.models.backbones import check_size, family_of, plugin_of
from ssltool.training import OPTIMIZERS
from ssltool.training.accumulation import accumulation_notes, check_accumulation, has_batch_norm
from ssltool.training.distributed import group_shard
from ssltool.training.recomputation import recompute_blocks
from ssltool.training.regularised import regularised

DEFAULT_SIZE = 224
"""Default image size in pixels."""

TRANSIENT = ("resume", "overwrite", "dry_run", "start_epoch", "download", "minutes")
"""Settings of one invocation; they are not saved with the run."""

SMALL_BATCH = 16
"""Batch size below which a method with batch norm causes a warning."""


class _Chunks(TypedDict):
    """The arguments of ``strategies.epoch_parts``."""

    strategy: str
    epoch: int
    epochs: int
    chunk_size: int
    n_rounds: int
    replay_size: int | None
    replay_rule: str
    seed: int


@dataclass(frozen=True)
class TrainingSetup:
    """The setup of a training run.

    Attributes:
        config: the settings, with all defaults resolved.
        options: the method's options.
        order: (N,) image numbers, the order of the data, in an array or computed.
        recipe: the augmentation of the views.
        support: the labelled images, if the method uses them.
        second: the checkpoint of the trained teacher, if the method uses one.
    """

    config: PretrainConfig
    options: MethodOptions
    images: ImageSet
    order: Order
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

    @functools.cached_property
    def preprocessing(self) -> Preprocessing:
        """The transform of the views."""
        arch = self.config.arch
        return family_of(arch).preprocessing(arch, self.image_size).with_settings(vars(self.config))

    @property
    def steps(self) -> int:
        """Steps of every epoch."""
        return steps_in_epoch(len(self.images), self.batch_size, self.config.steps_per_epoch)

    def with_epochs(self, epochs: int) -> TrainingSetup:
        """The same training with another number of epochs.

        Raises:
            SSLToolError: if the schedule does not allow it.
        """
        setup = dataclasses.replace(self, config=dataclasses.replace(self.config, epochs=epochs))
        for message in setup.config.mistakes():
            raise SSLToolError(message)
        setup.check_schedule()
        return setup

    def check_schedule(self) -> None:
        """Checks that every epoch has enough images for a batch.

        Raises:
            SSLToolError: if an epoch has too few; the message gives the first.
        """
        c, sizes = self.config, self._epoch_sizes
        short = next((epoch for epoch, size in enumerate(sizes) if size < self.batch_size), None)
        if self.steps and short is not None:
            raise SSLToolError(chunk_too_small_message(c.strategy, short, sizes[short], self.batch_size))

    @property
    def _epoch_sizes(self) -> list[int]:
        parts = (epoch_parts(self.order, **self._chunks(epoch)) for epoch in range(self.epochs))
        return [stop - start + len(replayed) for start, stop, replayed in parts]

    def subset(self, epoch: int) -> np.ndarray:
        """The images that an epoch draws from; see ``strategies.epoch_subset``."""
        return epoch_subset(self.order, **self._chunks(epoch))

    def slice(self, epoch: int) -> tuple[int, int]:
        """The slice [start, end) of the order that an epoch draws from, without the images that it replays."""
        start, stop, _ = epoch_parts(self.order, **self._chunks(epoch))
        return start, stop

    def replayed(self, epoch: int) -> np.ndarray:
        """The images of the replay buffer that an epoch draws from; none for other strategies than ``replay``."""
        return epoch_parts(self.order, **self._chunks(epoch))[2]

    def indices(self, epoch: int) -> Order:
        """The image numbers of one epoch; see ``strategies.epoch_indices``."""
        c = self.config
        return epoch_indices(
            self.order,
            **self._chunks(epoch),
            batch_size=self.batch_size,
            repeat_batch=c.repeat_batch,
            steps_per_epoch=c.steps_per_epoch,
        )

    def rows_read(self, steps: int) -> int:
        """How many images of a stream the first ``steps`` steps read, up to those of repeated batches."""
        return steps * self.batch_size // self.config.repeat_batch

    def monitored_rows(self) -> np.ndarray:
        """The rows of the images that the monitor measures, in order: a function of the seed, or the first of a
        stream."""
        c, n = self.config, len(self.images)
        if c.stream:
            return np.arange(min(n, c.monitor_size or n))
        if c.keyed_order:
            return np.sort(KeyedPermutation(n, c.seed, seeds.Stream.MONITOR)[: c.monitor_size])
        drawn = torch.randperm(n, generator=seeds.generator(c.seed, seeds.Stream.MONITOR))
        return drawn[: c.monitor_size].sort().values.numpy()

    def _chunks(self, epoch: int) -> _Chunks:
        c = self.config
        return {
            "strategy": c.strategy,
            "epoch": epoch,
            "epochs": self.epochs,
            "chunk_size": c.chunk_size,
            "n_rounds": c.n_rounds,
            "replay_size": c.replay_size,
            "replay_rule": c.replay_rule,
            "seed": c.seed,
        }

    def build_method(self) -> Method:
        """Builds the method and initialises its weights from the seed.

        Raises:
            UsageError: if a setting has no effect with the method.
            SSLToolError: if its options contradict the run.
        """
        c = self.config
        method = build_method(self.saved_run, self.second)
        check_accumulation(c.method, method, self.batch_size, c.accumulate, group_shard().world)
        if c.checkpoint_activations:
            recompute_blocks(method.backbone, c.arch)
        for recipe in method.view_recipes(self.recipe):
            if recipe.size is not None:
                check_size(method.backbone, recipe.size, "--set local_size")
        if c.n_warmup_steps and all(group["is_encoder"] for group in method.param_groups()):
            raise UsageError(
                f"--n-warmup-steps trains the predictor only, and {c.method} has no trainable predictor; leave it out"
            )
        return method

    def check_divisible(self, shard: Shard, option: str = "--batch-size") -> None:
        """Raises ``SSLToolError`` if a batch, which ``option`` sets, is not divisible by the number of ranks."""
        if self.batch_size % shard.world:
            raise SSLToolError(
                f"{option} {self.batch_size} is not divisible by the number of ranks ({shard.world}); change it"
            )
        if self.support is not None and self.support.batch_size % shard.world:
            raise SSLToolError(
                f"the {self.support.batch_size} labelled images of a step are not divisible by the number of ranks "
                f"({shard.world}); change --set support_per_class"
            )

    @property
    def terms(self) -> tuple[Term, ...]:
        """The regularisers of the run."""
        return read_terms(self.config.regularise)

    def regularised(self, method: Method) -> nn.Module:
        """The method with the terms of the run's regularisers; see ``regularised.regularised``."""
        return regularised(self.config.method, method, self.terms, self.config.accumulate)

    def warnings(self, method: Method) -> list[str]:
        """Warnings about settings that are likely to fail."""
        return self.identical_images + method.warnings() + self.small_batch_causes(method)

    @functools.cached_property
    def identical_images(self) -> list[str]:
        """A warning if all images of a sample are the same, pixel by pixel."""
        if not identical(self.images):
            return []
        count = min(len(self.images), SAMPLE_HEADERS)
        of = "" if count == len(self.images) else " of a sample"
        return [f"all {counted(count, 'image')}{of} are the same, pixel by pixel; check the files in DATA"]

    def small_batch_causes(self, method: Method) -> list[str]:
        """A warning if the batches are too small for the method's batch norms."""
        count = self.config.accumulate
        size = self.batch_size // count
        if not has_batch_norm(method) or size >= SMALL_BATCH:
            return []
        remedy = "" if count == 1 else ", or lower --accumulate"
        return [
            f"batch norm statistics of only {size} images are unstable; raise --batch-size to at least "
            f"{SMALL_BATCH * count}{remedy}"
        ]

    def notes(self, method: Method) -> list[str]:
        """What the settings change that a user may not expect."""
        accumulation = accumulation_notes(method, self.batch_size, self.config.accumulate)
        few = [] if self.config.steps_per_epoch else few_steps_notes(len(self.images), self.batch_size)
        return [*self.preprocessing.notes(), *accumulation, *few]

    @functools.cached_property
    def saved_run(self) -> SavedRun:
        """The run as ``config.json`` and checkpoints record it: its settings, and facts derived from the data.

        It is computed once, because it hashes the order and the teacher's weights.
        """
        flags = {f.name for f in dataclasses.fields(self.config) if f.metadata["method_option"]}
        settings = {k: v for k, v in as_dict(self.config).items() if k not in flags.union(TRANSIENT, {"options"})}
        second, listed = self.second, self.config.idx_path
        derived = {
            "data": absolute(self.config.data),
            "idx_path": None if listed is None else str(Path(listed).resolve()),
            "cache": None if self.config.cache is None else str(Path(self.config.cache).resolve()),
            "method_options": dataclasses.asdict(self.options),  # type: ignore[call-overload]  # subclasses are dataclasses
            "dataset": self.images.name,
            "n_images": len(self.images),
            "n_classes": max(0, int(self.images.labels.max()) + 1),
            "epoch_images": min(self._epoch_sizes),
            "second_backbone": second and dataclasses.asdict(second.run.backbone),
            "second_hash": second and weights_hash(second.state_dict),
            "support_hash": None if self.support is None else numbers_hash(self.support.images.index),
            "index_hash": numbers_hash(self.images.index),
            "idx_path_hash": listed and numbers_hash(read_numbers(listed, None, "--idx-path")),
            "labels_hash": self._labels_hash(),
            "fingerprint": self.images.fingerprint,
            "found": record_of(self.images),
            "order_hash": numbers_hash(self.order),
            "views_version": views.VERSION,
        }
        plugins = self._plugins()
        return SavedRun.read(settings | derived | ({"plugins": plugins} if plugins else {}))

    def _labels_hash(self) -> str | None:
        """The hash of the labels that are trained on; None if there are none."""
        if self.support is not None:
            return numbers_hash(self.support.images.labels)
        return numbers_hash(self.images.labels) if method_class(self.config.method).uses_labels else None

    def _plugins(self) -> list[str]:
        """The plug-ins that registered what this training uses."""
        c = self.config
        used = {
            METHODS.plugin(c.method),
            plugin_of(c.arch),
            OPTIMIZERS.plugin(c.optimizer),
            *(REGULARISERS.plugin(term.name) for term in self.terms),
            LAYOUTS.plugin(self.images.name),
            *(self.second.run.plugins if self.second else ()),
        }
        return sorted(name for name in used if name is not None)


def numbers_hash(numbers: Order) -> str:
    """The first 16 hex digits of the SHA-256 of ``numbers``, or of what computes them."""
    if isinstance(numbers, ComputedOrder):
        return hashlib.sha256(numbers.identity).hexdigest()[:16]
    return hashlib.sha256(np.ascontiguousarray(numbers).tobytes()).hexdigest()[:16]
