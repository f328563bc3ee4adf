"""What several stages' settings share: which images, which device, which run folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ssltool.settings import Checked, setting

STRATEGIES = ("iid", "current", "accumulate", "last")
DATASETS = (
    "auto",
    "bundled",
    "imagenet",
    "folder",
    "images",
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "stl10",
    "places365",
)
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
        f"layout of DATA: {', '.join(DATASETS)}, or the paper's imagenet_train, imagenet_train_subset, "
        "places_simsiam_train, ...; auto looks at the folder",
        section="Data",
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
