"""What the stages that look at a trained network share: which network, which labels; and the settings of save-reprs."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.shared import LAYERS, SPLITS, STEMS, DataSettings, DeviceSettings
from ssltool.settings import setting


@dataclass(frozen=True)
class NetworkSettings(DeviceSettings, DataSettings):
    """Which pretrained network a later stage looks at. What is None comes from its checkpoint."""

    data: str | None = setting(None, "folder of the images [default: the checkpoint's]", section="Data", metavar="DIR")
    image_size: int | None = setting(
        None, "side of the input in pixels [default: the checkpoint's]", section="Data", minimum=8
    )
    pretrained: str | None = setting(None, "checkpoint of the model", section="Model", metavar="FILE")
    arch: str | None = setting(None, "backbone [default: the checkpoint's]", "-a", section="Model")
    stem: str | None = setting(None, "stem [default: the checkpoint's]", choices=STEMS, section="Model")
    random: bool = setting(False, "an untrained network instead, with the checkpoint's settings", section="Model")


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
    )
    holdout: float = setting(
        0.1,
        "share of the training images of each class on which settings are chosen, where there is something to choose",
        section="Data",
        above=0,
        maximum=0.9,
    )
    seed: int = setting(10, "seed of labels, weights, order and crops", section="Optimisation", minimum=0)


@dataclass(frozen=True)
class SaveReprsConfig(NetworkSettings):
    """Settings of ``ssltool save-reprs``."""

    layer: str = setting("backbone", "whose output to save", choices=LAYERS, section="Model")
    split: str | None = setting(
        None,
        "which images [default: the one --dataset_type names, else train]",
        choices=(*SPLITS, "both"),
        section="Data",
    )
    views: int | None = setting(
        None,
        "save so many augmented views of each image, made as in the run, for alignment and lidar [default: the image "
        "itself, by the validation transform]",
        section="Data",
        minimum=2,
    )
    sample: int | None = setting(
        None, "only so many images, drawn at random by the run's seed [default: all]", section="Data", minimum=1
    )
    batch_size: int = setting(256, "images or views in a batch", "-b", section="Data", minimum=1)
    out: str | None = setting(
        None,
        "file to write, or a folder with --split both [default: data/ARCH_exp0000/DATASET/SPLIT_reprs_e0.pt, with "
        "_random, the layer, views and sample after the number where it is not the trained backbone's of all images]",
        "-o",
        section="Output",
        metavar="PATH",
    )
    exp_id: int | None = setting(
        None, "number in the default name [default: the checkpoint's]", section="Output", minimum=0
    )
    extra_info: str | None = setting(None, "added to the default name's folder", section="Output")
