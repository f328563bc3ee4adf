"""What several stages' settings share: which images, which device, which run folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ssltool.settings import Checked, setting

STRATEGIES = ("iid", "current", "accumulate", "last")
LAYOUTS = "ssltool.data.layouts:LAYOUTS"
"""The registry of dataset layouts."""

SPLITS = ("train", "val", "unlabeled")
STEMS = ("auto", "imagenet", "small", "small-stride2", "small-padded")
LAYERS = ("backbone", "projector", "predictor")


def decoders() -> Any:
    """The setting of the processes that read images."""
    help = "processes that decode images from files [default: one per core, at most 8]"
    return setting(None, help, "-j", section="Data", minimum=0)


@dataclass(frozen=True)
class DataSettings(Checked):
    """Which images, and how they are read."""

    data: str | None = setting(
        None, "folder of the images; the bundled Fashion-MNIST subset when none is given", section="Data", metavar="DIR"
    )
    dataset_type: str = setting(
        "auto",
        "layout of DATA: auto, {names}, or the paper's imagenet_train, imagenet_train_subset, "
        "places_simsiam_train, ...; auto looks at the folder",
        section="Data",
        names=LAYOUTS,
    )
    idx_path: str | None = setting(
        None, "restrict to the image numbers in this .npy file", section="Data", metavar="FILE"
    )
    download: bool = setting(False, "fetch the dataset into DATA first, where torchvision can", section="Data")
    small: bool = setting(False, "the 256-pixel version of Places365", section="Data")
    skip_corrupt: bool = setting(
        False, "read every image once before starting and leave out those that cannot be decoded", section="Data"
    )
    image_size: int | None = setting(
        None,
        "side of the input in pixels [default: 224, or the images' own size where all share one up to 96]",
        section="Data",
        minimum=8,
        fixed=True,
    )
    workers: int | None = decoders()


@dataclass(frozen=True)
class DeviceSettings(Checked):
    """Where the arithmetic happens."""

    device: str = setting("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"), section="Hardware")
    gpu: int | None = setting(None, "number of the CUDA device", section="Hardware", minimum=0)


@dataclass(frozen=True)
class RunSettings(Checked):
    """Where a training stage writes, and what it does with what is there."""

    exp_name: str | None = setting(None, "name of the run folder [default: made from the settings]", section="Run")
    exp_id: int = setting(0, "number of the run: the folder is logs/EXP_NAME_EXP_ID", section="Run", minimum=0)
    out: str | None = setting(None, "run folder, instead of logs/EXP_NAME_EXP_ID", "-o", section="Run", metavar="PATH")
    overwrite: bool = setting(False, "replace the run that the folder holds", section="Run")


def as_dict(config: Any) -> dict[str, Any]:
    """The settings as plain values that JSON and a checkpoint can hold."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}


def fixed_settings(cls: type) -> list[str]:
    """Names of the settings that a resumed run must share with the run it goes on from."""
    return [f.name for f in dataclasses.fields(cls) if f.metadata.get("fixed")]


SPECTRA = ("svd", "cov", "std")


STATES = ("healthy", "partial", "complete")
"""How far a network has collapsed, from not at all."""


def reaches(state: str | None, limit: str | None) -> bool:
    """Whether ``state`` is ``limit`` or further collapsed; never where one of them is not known or not asked for."""
    return state is not None and limit is not None and STATES.index(state) >= STATES.index(limit)


@dataclass(frozen=True)
class NetworkSettings(DeviceSettings, DataSettings):
    """Which pretrained network a later stage looks at. What is None comes from its checkpoint."""

    data: str | None = setting(None, "folder of the images [default: the checkpoint's]", section="Data", metavar="DIR")
    image_size: int | None = setting(
        None, "side of the input in pixels [default: the checkpoint's]", section="Data", minimum=8
    )
    pretrained: str | None = setting(
        None,
        "checkpoint of the network, ssltool's or another program's; random for an untrained one of -a, "
        "torchvision:DEFAULT for torchvision's weights of -a",
        section="Model",
        metavar="FILE",
    )
    arch: str | None = setting(None, "backbone [default: what the checkpoint holds]", "-a", section="Model")
    stem: str | None = setting(None, "stem [default: what the checkpoint holds]", choices=STEMS, section="Model")
    random: bool = setting(
        False, "an untrained network instead, of the make that the checkpoint holds", section="Model"
    )


@dataclass(frozen=True)
class LabelledSettings(NetworkSettings):
    """Which labels a stage learns from."""

    labels_fraction: float = setting(
        1.0,
        "share of the labelled training images of each class to learn from: 0.01 and 0.1 are the semi-supervised "
        "protocols",
        section="Data",
        above=0,
        maximum=1,
        fixed=True,
    )
    seed: int = setting(10, "seed of labels, weights, order and crops", section="Optimisation", minimum=0, fixed=True)
