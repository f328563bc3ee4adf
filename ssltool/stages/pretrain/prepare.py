"""The training setup of ``pretrain``, with all defaults filled in and checked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ssltool.checkpoints.build import read_teacher
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.config import PretrainConfig, as_dict
from ssltool.config.fields import AUTO
from ssltool.data import views
from ssltool.data.computed_orders import Order
from ssltool.data.images import ImageSet, check_pixel_flags, open_dataset
from ssltool.data.shard_stream import open_stream
from ssltool.data.strategies import computed_order, read_numbers, read_order
from ssltool.data.support import Support, stratified_sample
from ssltool.diagnosis.monitor_time import MIN_IMAGES
from ssltool.errors import SSLToolError
from ssltool.methods import method_class, method_options
from ssltool.methods.options import LabelledSupport, MethodOptions
from ssltool.methods.regularisers import read_terms
from ssltool.models.backbones import family_of, resolve_stem
from ssltool.models.family import SMALL_IMAGE
from ssltool.runs.folder import SHARDS
from ssltool.runs.resume import check_images, find_resumed
from ssltool.stages.pretrain.recipe import given_options, resumed_options
from ssltool.training.distributed import rank_zero_info
from ssltool.training.open_images import open_on_ranks
from ssltool.training.setup import DEFAULT_SIZE, TrainingSetup

MIN_PROBE, MAX_PROBE = MIN_IMAGES, 2048
"""Limits of the default ``monitor_size``, an eighth of the images, which costs a few percent of an epoch."""

KEPT = ("stem", "epochs", "batch_size", "precision")
"""Settings whose default a resumed run takes from its checkpoint."""

BUNDLED_STEM, BUNDLED_EPOCHS, BUNDLED_BATCH = "small-stride2", 6, 64
"""Defaults for the bundled images: a run of minutes on two CPU cores."""


DEFAULT_BATCH = 512
"""Default number of images in a batch."""


def prepare(config: PretrainConfig, native_precision: str = "fp32") -> TrainingSetup:
    """Opens the data, fills in the defaults that depend on it, and checks the schedule of all epochs.

    Args:
        native_precision: what ``--precision auto`` is in a new run. A resumed run keeps that of its checkpoint.

    Raises:
        UsageError: for settings that contradict each other.
        SSLToolError: for anything else that would stop the run later: a bad order, a chunk smaller than a batch, ...
    """
    config, options, resumed, path = _before_images(config, native_precision)
    images = open_on_ranks(lambda own: _open(own, path), config)
    if resumed is not None and path is not None:
        check_images(resumed.settings, path, images)
    if len(images) < 2:
        raise SSLToolError(f"{images.name} {images.split} has 1 image; pretraining needs at least two different ones")
    if config.minutes is not None:
        config = dataclasses.replace(config, epochs=_epochs_before_trial(config, resumed))
    config = _resolve(config, images)
    for message in config.mistakes():  # mistakes in the defaults that depend on the data
        raise SSLToolError(message)
    order: Order | None = computed_order(len(images), config.seed, keyed=config.keyed_order, stream=config.stream)
    if order is None:
        order = np.arange(len(images))
        if config.strategy != "iid":
            order = read_order(config.incremental_idx_path, len(images), config.seed)
    support = _support(config, options, images)
    setup = TrainingSetup(
        config, options, images, order, views.recipe_of(as_dict(config)), support, read_teacher(config.method, options)
    )
    if config.n_warmup_steps >= setup.steps:
        raise SSLToolError(
            f"--n-warmup-steps {config.n_warmup_steps} freezes the encoder for all {setup.steps} steps of an epoch; "
            "lower it"
        )
    setup.check_schedule()
    unlabelled = int((images.labels < 0).sum())
    if method_class(config.method).uses_labels and unlabelled:
        raise SSLToolError(
            f"{config.method} needs labels, and {unlabelled} of {len(images)} images have none; leave "
            "these out, or choose a method without labels"
        )
    return setup


def _before_images(
    config: PretrainConfig, native_precision: str
) -> tuple[PretrainConfig, MethodOptions, SavedRun | None, Path | None]:
    """The settings with the defaults that do not depend on the images, the method's options, and the run that is
    resumed, with the path of its checkpoint."""
    config.check()
    family_of(config.arch)
    method_options(config.method, given_options(config))  # mistakes in them come before those in files
    read_terms(config.regularise)
    check_pixel_flags(config, config)
    resumed, path = _resumed_run(config)
    if config.raw_pixels is None:
        config = dataclasses.replace(config, raw_pixels=resumed is not None and bool(resumed.pixels["raw_pixels"]))
    config = _with_defaults_of(resumed, config)
    if config.precision == AUTO:
        config = dataclasses.replace(config, precision=native_precision)
    return config, resumed_options(config, resumed), resumed, path


def _open(config: PretrainConfig, resumed_from: Path | None) -> ImageSet:
    """The training images; of a stream, as many as the run reads."""
    if not config.stream:
        return open_dataset(config, "train")
    steps, epochs, batch_size = config.steps_per_epoch or 0, config.epochs or 0, config.batch_size or DEFAULT_BATCH
    count = epochs * -(-steps // config.repeat_batch) * batch_size
    return open_stream(config, count, resumed_from and resumed_from.parent / SHARDS)


def _resumed_run(config: PretrainConfig) -> tuple[SavedRun, Path] | tuple[None, None]:
    """The run that is resumed, and the path of its checkpoint."""
    try:
        found = find_resumed(config)
    except SSLToolError:  # ``find_start`` raises it again, after the mistakes in the settings
        found = None
    return (None, None) if found is None else (found.checkpoint.run, found.path)


def _with_defaults_of(resumed: SavedRun | None, config: PretrainConfig) -> PretrainConfig:
    """``config`` with what the defaults of ``KEPT`` were when the resumed run began: they depend on the data, the
    processor and the version."""
    saved = {} if resumed is None else resumed.settings
    kept = {name: saved[name] for name in KEPT if getattr(config, name) in (None, AUTO) and name in saved}
    return dataclasses.replace(config, **kept)


def _epochs_before_trial(config: PretrainConfig, resumed: SavedRun | None) -> int:
    """With ``--minutes``, the epochs of the run that is resumed; else the fewest that other settings allow, until the
    rate is known."""
    if resumed is not None and resumed.schedule is not None:
        return resumed.schedule.epochs
    return config.n_rounds * (config.warmup_epochs // config.n_rounds + 1)


def _support(config: PretrainConfig, options: Any, images: ImageSet) -> Support | None:
    """The labelled support images of the method, None if it uses none."""
    if not isinstance(options, LabelledSupport):
        return None
    rows = stratified_sample(images.labels, options.labels_fraction, config.seed)
    if options.labels_path is not None:
        if options.labels_fraction != type(options)().labels_fraction:
            raise SSLToolError("--set labels_path and labels_fraction contradict each other; leave one of them out")
        numbers = read_numbers(options.labels_path, None, "--labels-path")
        rows = np.flatnonzero(np.isin(images.index, numbers) & (images.labels >= 0))
        if not len(rows):
            raise SSLToolError(
                f"{options.labels_path} names no labelled training image; list numbers of images with labels, from 0"
            )
        if len(rows) < len(numbers):  # --idx-path and --skip-corrupt leave out images whose numbers are valid
            other = np.setdiff1d(numbers, images.index[rows])
            rank_zero_info(
                f"note: {len(other):,} of the {len(numbers):,} numbers in {options.labels_path} are those of no "
                f"labelled training image; the first is {other[0]}"
            )
    labelled = images.select(rows)
    classes = len(np.unique(labelled.labels))
    per_step = options.support_classes or classes
    if per_step > classes:
        raise SSLToolError(f"--set support_classes={per_step}: the labelled images have {classes} classes; lower it")
    return Support(labelled, per_step, options.support_per_class, config.seed)


def _default_size(arch: str, images: int | None) -> int:
    """The image size for ``arch``: that of the ``images`` if they share one and the architecture can be built for it,
    else its own."""
    family = family_of(arch)
    own = family.own_size(arch) or DEFAULT_SIZE
    if images is None or family.fits(arch, images):
        return images or own
    rank_zero_info(f"{arch} takes no images of {images} pixels; using its own size, {own}")
    return own


def _resolve(config: PretrainConfig, images: ImageSet) -> PretrainConfig:
    """``config`` with the defaults that depend on the data."""
    bundled, has_stem = images.name == "bundled", "stem" in family_of(config.arch).settings
    stem = BUNDLED_STEM if bundled and has_stem and config.stem == AUTO else config.stem
    size = config.image_size or _default_size(config.arch, images.own_size)
    return dataclasses.replace(
        config,
        image_size=size,
        stem=resolve_stem(config.arch, stem, size),
        **images.rules.settings(),
        **family_of(config.arch).preprocessing(config.arch, size).with_settings(vars(config)).settings(),
        epochs=config.epochs or (BUNDLED_EPOCHS if bundled else 100),
        batch_size=config.batch_size or (BUNDLED_BATCH if bundled else DEFAULT_BATCH),
        monitor_size=min(len(images), config.monitor_size or min(MAX_PROBE, max(MIN_PROBE, len(images) // 8))),
        # SimSiam's recipe for small images (App. D) has no blur: a blur of two pixels would remove their content.
        blur_p=config.blur_p if config.blur_p is not None else (0.5 if size > SMALL_IMAGE else 0.0),
    )
