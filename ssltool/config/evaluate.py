"""The settings of the stages that look at a trained network: representations and accuracies."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.shared import LAYERS, SPLITS, STEMS, DataSettings, DeviceSettings, RunSettings
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


@dataclass(frozen=True)
class KnnConfig(DeviceSettings):
    """Settings of ``ssltool knn``."""

    bank: str | None = setting(None, "representations with labels, which vote")
    queries: str | None = setting(None, "representations to classify")
    k: int = setting(20, "neighbours that vote", "-k", minimum=1)
    metric: str = setting("cos", "what near means: cosine similarity or Euclidean distance", choices=("cos", "l2"))
    weighted: bool = setting(False, "weight votes by exp(similarity / temperature) instead of counting them")
    temperature: float = setting(0.07, "temperature of the weighted vote", above=0)
    chunk: int = setting(1024, "queries compared at a time; bounds the memory", minimum=1)
    folder: str | None = setting(
        None, "folder of --source and --target; the paper's output files go there", metavar="DIR"
    )
    source: str | None = setting(None, "file of the bank in --folder", metavar="FILE")
    target: str | None = setting(None, "file of the queries in --folder", metavar="FILE")


@dataclass(frozen=True)
class LinclsConfig(RunSettings, NetworkSettings):
    """Settings of ``ssltool lincls``."""

    lars: bool = setting(False, "LARC: scale each layer's update by its norms (trust 0.001)", section="Optimisation")
    epochs: int = setting(90, "epochs", section="Optimisation", minimum=1)
    batch_size: int | None = setting(
        None, "images in a batch [default: 4096; 256 on the bundled data]", "-b", section="Optimisation", minimum=1
    )
    lr: float = setting(
        0.1,
        "learning rate for a batch of 256; scaled with the batch",
        "--learning-rate",
        section="Optimisation",
        above=0,
    )
    momentum: float = setting(0.9, "momentum of SGD", section="Optimisation", minimum=0, maximum=1)
    weight_decay: float = setting(0.0, "weight decay", "--wd", section="Optimisation", minimum=0)
    seed: int = setting(10, "seed of the weights, the order and the crops", section="Optimisation", minimum=0)
