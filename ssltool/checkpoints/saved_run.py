"""What saved settings say of a run: its stage, backbone, method, data and schedule.

``config.json`` and a checkpoint's ``config`` are one flat dict. It is read here and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssltool.checkpoints.match_architecture import BackboneSpec
from ssltool.config import PretrainConfig, as_dict
from ssltool.data import views
from ssltool.errors import SSLToolError
from ssltool.files import FilePath, Settings
from ssltool.models.family import SMALL_IMAGE

OURS = "ssltool"

PROGRAM = "program"
"""The key that names the program that a network comes from. Only settings of a backbone alone have it."""

STAGE_KEYS = {"origin": "lincls", "arm": "finetune", "phase": "scan"}
"""Keys that only one stage writes, for settings that do not name their stage."""


@dataclass(frozen=True)
class SavedMethod:
    """The method that a run trained with: its name, its options as plain values, and the backbone of the trained
    network that it learned from, if it had one."""

    name: str
    options: Settings
    teacher_backbone: BackboneSpec | None


@dataclass(frozen=True)
class SavedData:
    """The images that a run trained on: the name of the dataset, its folder (None for the bundled images), whether it
    is the small version, the numbers of images and classes, and of images in the smallest epoch."""

    dataset: str
    folder: str | None
    small: bool
    images: int
    classes: int
    epoch_images: int


@dataclass(frozen=True)
class SavedSchedule:
    """How long a run trains: ``batch_size`` is over all ranks, ``steps_per_epoch`` is None where an epoch is as long
    as its data."""

    strategy: str
    epochs: int
    batch_size: int
    steps_per_epoch: int | None


@dataclass(frozen=True)
class SavedRun:
    """The run that a network comes from.

    ``stage`` is the command that trained it, ``program`` the program. A backbone alone, from another program or
    untrained, has no stage, method, data or schedule; ``method_name`` is then the other program's name of its method.
    ``plugins`` are the plug-ins that the run needs. ``settings`` is the dict that was read, and that is written.
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
            SSLToolError: if the settings are not a dict or lack a key, which is named.
        """
        if not isinstance(settings, Mapping):
            raise SSLToolError(f"{source} holds no settings of a run; use a file that ssltool wrote")
        try:
            return cls._read(settings)
        except KeyError as error:
            key = error.args[0]
            raise SSLToolError(f"{source} holds incomplete settings: {key} is missing; save it again") from error

    @classmethod
    def _read(cls, settings: Settings) -> SavedRun:
        stage = stage_of(settings)
        alone = stage is None
        return cls(
            stage=stage,
            program=settings.get(PROGRAM, OURS),
            backbone=_backbone(settings),
            method_name=settings["method"],
            seed=settings["seed"],
            method=None if alone else _method(settings),
            data=None if alone else _data(settings),
            schedule=None if alone else _schedule(settings),
            plugins=tuple(settings.get("plugins", ())),
            settings=settings,
        )

    @classmethod
    def of_backbone(cls, backbone: BackboneSpec, *, method: str, program: str) -> SavedRun:
        """A backbone alone: a network of another ``program``, trained with its ``method``, or an untrained one."""
        return cls.read(_settings_of_backbone(backbone, method, program))

    def updated(self, **changes: Any) -> SavedRun:
        """This run with these settings added or replaced."""
        return SavedRun.read(self.settings | changes)

    @property
    def recipe(self) -> views.Recipe:
        """How the run makes its views."""
        return views.recipe_of(self.settings)


def stage_of(settings: Settings) -> str | None:
    """The stage that wrote ``settings``; None for a backbone alone."""
    if PROGRAM in settings:
        return None
    if "stage" in settings:
        return str(settings["stage"])
    return next((stage for key, stage in STAGE_KEYS.items() if key in settings), "pretrain")


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
        images=settings["n_images"],
        classes=settings["n_classes"],
        epoch_images=settings["epoch_images"],
    )


def _schedule(settings: Settings) -> SavedSchedule:
    return SavedSchedule(**{f.name: settings[f.name] for f in dataclasses.fields(SavedSchedule)})


def _settings_of_backbone(backbone: BackboneSpec, method: str, program: str) -> Settings:
    """What files of representations hold as the settings of such a network: those of pretraining, with 0 or None for
    what is not known."""
    counts = ("n_images", "n_classes", "epoch_images", "batch_size", "steps_per_epoch", "epochs")
    unknown = ("data", "second_backbone", "second_hash", "support_hash", "index_hash", "order_hash", "strategy")
    known = {
        **dataclasses.asdict(backbone),
        PROGRAM: program,
        "method": method,
        "method_options": {},
        "blur_p": 0.5 if backbone.image_size > SMALL_IMAGE else 0.0,
        "dataset": "bundled",
    }
    return as_dict(PretrainConfig()) | known | dict.fromkeys(counts, 0) | dict.fromkeys(unknown)
