"""What the stages that look at a trained network share: which network, which labels; and the settings of save-reprs."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.common import SPLITS, NetworkSettings
from ssltool.settings import setting


@dataclass(frozen=True)
class SaveReprsConfig(NetworkSettings):
    """Settings of ``ssltool save-reprs``."""

    layer: str = setting(
        "backbone",
        "whose output to save: backbone, projector, predictor, or a module's dotted name such as backbone.layer3",
        section="Model",
        metavar="NAME",
    )
    tokens: str | None = setting(
        None,
        "which of a ViT's tokens: the class token, every patch (a row each), or the mean of the patches [default: cls]",
        choices=("cls", "patch", "mean"),
        section="Model",
    )
    pool: str | None = setting(
        None,
        "what becomes of a feature map: its mean, or a row for each place (none) [default: mean]",
        choices=("mean", "none"),
        section="Model",
    )
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
    batch_size: int = setting(256, "images in a batch; of views, 256 at most", "-b", section="Data", minimum=1)
    precision: str = setting("fp32", "arithmetic of the forward pass", choices=("fp32", "bf16"), section="Hardware")
    format: str = setting(
        "pt",
        "kind of file: ssltool's own, NumPy arrays, or parquet; the latter two are for other programs",
        choices=("pt", "npy", "parquet"),
        section="Output",
    )
    dtype: str = setting(
        "fp32", "type of the saved numbers; bf16 halves a .pt file", choices=("fp32", "bf16"), section="Output"
    )
    out: str | None = setting(
        None,
        "file to write, or a folder with --split both [default: data/ARCH_exp0000/DATASET/SPLIT_reprs_e0.pt, with "
        "_random, the layer, views and whatever else makes it not the trained backbone's rows after the number]",
        "-o",
        section="Output",
        metavar="PATH",
    )
    exp_id: int | None = setting(
        None, "number in the default name [default: the checkpoint's]", section="Output", minimum=0
    )
    extra_info: str | None = setting(None, "added to the default name's folder", section="Output")
