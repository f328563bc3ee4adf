"""The settings of a saved run as typed records: its stage, backbone, method, data and schedule.

``config.json`` and the ``config`` of a checkpoint are one flat dict. Only this module interprets it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssltool.checkpoints.match_architecture import BackboneSpec
from ssltool.checkpoints.setting_names import HASHES, PROGRAM, SSLTOOL, stage_of
from ssltool.config import PretrainConfig, as_dict
from ssltool.config.fields import MOST_EPOCHS, TRANSFORM
from ssltool.data import views
from ssltool.data.preprocessing import IMAGENET, PREPROCESSING, Preprocessing
from ssltool.files.schema import (
    Check,
    Sizes,
    boolean,
    conform,
    either,
    integer,
    listing,
    mapping,
    nested,
    optional,
    real,
    text,
)
from ssltool.files.setting_checks import setting_checks
from ssltool.files.writing import FilePath
from ssltool.models.backbones import family_of
from ssltool.models.family import SMALL_IMAGE
from ssltool.settings import Settings

PIXELS = {"raw_pixels": True, "background": "#ffffff", "value_range": None}
EARLIER = PIXELS | {k: list(v) if isinstance(v, tuple) else v for k, v in IMAGENET.settings().items()}
"""What settings amounted to before they existed, where that is not their default; ``PIXELS`` are those of pixels."""

PRETRAIN = setting_checks(PretrainConfig)

BACKBONE = {
    **{name: PRETRAIN[name] for name in ("arch", "stem", "stop_grad_conv1", "zero_init_residual")},
    "image_size": integer(1, 2**16),
}
"""The settings of a backbone."""

COUNT = integer(0, 2**40)

RUN = {
    **BACKBONE,
    **{name: PRETRAIN[name] for name in ("method", "seed", "strategy", "data", "small", "steps_per_epoch")},
    "epochs": integer(1, MOST_EPOCHS),
    "batch_size": integer(1, 2**32),
    "method_options": mapping(other=either(optional(text()), boolean(), real())),
    "second_backbone": optional(mapping(BACKBONE)),
    "dataset": text(),
    **dict.fromkeys(("n_images", "n_classes", "epoch_images"), COUNT),
}
"""The settings that every run of pretraining, and every training of a classifier, has."""

FACTS = {
    "stage": text(200),
    "views_version": optional(integer(1, 1000)),
    **dict.fromkeys(HASHES, optional(text(200))),
    **{name: PRETRAIN[name] for name in TRANSFORM},
    "preprocessing": optional(PREPROCESSING),
    "plugins": listing(text(200), what="a list of names"),
    "found": optional(mapping(other=nested())),
}
"""What any stage may have saved beside its settings."""

LATER = {
    f.name: f.default
    for f in dataclasses.fields(PretrainConfig)
    if f.name not in RUN and (f.metadata["fixed"] or f.metadata["section"] in ("Views", "Data strategy", "Run"))
} | EARLIER
"""Settings that files of earlier versions may lack, with what they amounted to."""


def _as_saved(value: Any, sizes: Sizes) -> Settings:
    settings: Settings = mapping(other=nested(), what="a dict of settings")(value, sizes)
    known = BACKBONE if PROGRAM in settings else PRETRAIN | RUN if "method_options" in settings else {}
    checked: Settings = mapping(optional=known | FACTS, other=nested())(settings, sizes)
    return checked


SETTINGS = Check("the settings of a run", _as_saved)
"""The ``config.json`` of any stage, and the ``config`` of a checkpoint, which may lack settings."""

_BACKBONE_ONLY = mapping(BACKBONE | {name: PRETRAIN[name] for name in ("method", "seed")}, FACTS, nested())
_COMPLETE = mapping(RUN, PRETRAIN | FACTS, nested(), what="a dict of settings")


@dataclass(frozen=True)
class SavedMethod:
    """The method of a run, its options as plain values, and the backbone of its trained teacher, if it has one."""

    name: str
    options: Settings
    teacher_backbone: BackboneSpec | None


@dataclass(frozen=True)
class SavedData:
    """The training images of a run.

    Attributes:
        folder: None for the bundled images.
        small: whether it is the small version of the dataset.
        detected: whether the layout was detected.
        unlabelled: the class folders that are read without labels.
        image_column, label_column: the columns of a table that the run named.
        subset: the file with the numbers of the images that the run used; None if it used all.
        subset_hash: the hash of these numbers, None if it is unknown.
        images: the number of images.
        classes: the number of classes.
        epoch_images: the number of images in the smallest epoch.
    """

    dataset: str
    folder: str | None
    small: bool
    detected: bool
    unlabelled: tuple[str, ...]
    image_column: str | None
    label_column: str | None
    subset: str | None
    subset_hash: str | None
    images: int
    classes: int
    epoch_images: int


@dataclass(frozen=True)
class SavedSchedule:
    """The length of a run. ``batch_size`` is over all ranks; ``steps_per_epoch`` is None if an epoch is one pass over
    its images."""

    strategy: str
    epochs: int
    batch_size: int
    steps_per_epoch: int | None


@dataclass(frozen=True)
class SavedRun:
    """A run, as its saved settings describe it.

    A backbone without a run, which is untrained or from another program, has no stage, method, data and schedule.

    Attributes:
        stage: the command that trained the network.
        program: the program that trained the network.
        method_name: the method, as ``program`` names it.
        plugins: the plug-ins that the run needs.
        settings: the dict that was read; it is what is saved.
    """

    stage: str | None
    program: str
    backbone: BackboneSpec
    method_name: str
    seed: int
    method: SavedMethod | None
    data: SavedData | None
    schedule: SavedSchedule | None
    plugins: tuple[str, ...]
    settings: Settings

    @classmethod
    def read(cls, settings: Settings, source: FilePath = "the file") -> SavedRun:
        """The run with these ``settings``, which come from the file ``source``.

        Raises:
            SSLToolError: if the settings are not a dict, a key is missing, or a value is not as it should be. Keys that
                files of earlier versions lack have the value in ``LATER``.
        """
        backbone_only = isinstance(settings, Mapping) and PROGRAM in settings
        settings = LATER | conform(settings, _BACKBONE_ONLY if backbone_only else _COMPLETE, source)
        return cls(
            stage=stage_of(settings),
            program=settings.get(PROGRAM, SSLTOOL),
            backbone=_backbone(settings),
            method_name=settings["method"],
            seed=settings["seed"],
            method=None if backbone_only else _method(settings),
            data=None if backbone_only else _data(settings),
            schedule=None if backbone_only else _schedule(settings),
            plugins=tuple(settings.get("plugins", ())),
            settings=settings,
        )

    @classmethod
    def of_backbone(
        cls, backbone: BackboneSpec, *, method: str, program: str, preprocessing: Preprocessing | None = None
    ) -> SavedRun:
        """The settings of a backbone without a run: one that another ``program`` trained with its ``method``, or an
        untrained one. ``preprocessing`` is the transform that its files name."""
        known = {} if preprocessing is None else {"preprocessing": preprocessing.record()}
        return cls.read(_settings_of_backbone(backbone, method, program) | known)

    def updated(self, **changes: Any) -> SavedRun:
        """This run with these settings added or replaced."""
        return SavedRun.read(self.settings | changes)

    @property
    def pixels(self) -> Settings:
        """The settings that determine how its images became pixels; see ``data.pixels.PixelRules``."""
        return {name: self.settings[name] for name in PIXELS}

    def preprocessing(self, image_size: int | None = None) -> Preprocessing:
        """The transform of the network: that which its files name, else its architecture's own, with the settings of
        the run. ``image_size`` is the run's by default.

        Raises:
            UsageError: if the architecture is unknown, or its library is not installed.
        """
        arch, size = self.backbone.arch, image_size or self.backbone.image_size
        named = self.settings.get("preprocessing")
        own = family_of(arch).preprocessing(arch, size) if named is None else Preprocessing.read(named).at(size)
        return own.with_settings(self.settings)

    @property
    def recipe(self) -> views.Recipe:
        """How the run makes its views."""
        return views.recipe_of(self.settings)


def _backbone(settings: Settings) -> BackboneSpec:
    return BackboneSpec(**{f.name: settings[f.name] for f in dataclasses.fields(BackboneSpec)})


def _method(settings: Settings) -> SavedMethod:
    teacher = settings["second_backbone"]
    return SavedMethod(settings["method"], settings["method_options"], None if teacher is None else _backbone(teacher))


def _data(settings: Settings) -> SavedData:
    return SavedData(
        dataset=settings["dataset"],
        folder=settings["data"],
        small=settings["small"],
        detected=settings.get("dataset_type", "auto") == "auto",
        unlabelled=tuple(settings.get("unlabelled", ())),
        image_column=settings.get("image_column"),
        label_column=settings.get("label_column"),
        subset=settings.get("idx_path"),
        subset_hash=_subset_hash(settings),
        images=settings["n_images"],
        classes=settings["n_classes"],
        epoch_images=settings["epoch_images"],
    )


def _subset_hash(settings: Settings) -> str | None:
    """The hash of the numbers in the file of ``--idx-path``. Earlier versions saved only that of the images trained on,
    which pretraining without ``--skip-corrupt`` does not reduce further."""
    fewer = settings.get("skip_corrupt") or stage_of(settings) != "pretrain"
    return settings.get("idx_path_hash") or (None if fewer else settings.get("index_hash"))


def _schedule(settings: Settings) -> SavedSchedule:
    return SavedSchedule(**{f.name: settings[f.name] for f in dataclasses.fields(SavedSchedule)})


def _settings_of_backbone(backbone: BackboneSpec, method: str, program: str) -> Settings:
    """The settings that files of representations contain for such a network: those of pretraining, with 0 or None for
    unknown values."""
    counts = ("n_images", "n_classes", "epoch_images", "batch_size", "steps_per_epoch", "epochs")
    unknown = ("data", "second_backbone", *HASHES, "found", "strategy", "views_version")
    known = {
        **dataclasses.asdict(backbone),
        PROGRAM: program,
        "method": method,
        "method_options": {},
        "blur_p": 0.5 if backbone.image_size > SMALL_IMAGE else 0.0,
        "dataset": "bundled",
    }
    return as_dict(PretrainConfig()) | known | dict.fromkeys(counts, 0) | dict.fromkeys(unknown)
