"""The settings of ``ssltool lincls``."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.evaluate import LabelledSettings
from ssltool.config.shared import RunSettings
from ssltool.settings import setting


@dataclass(frozen=True)
class LinclsConfig(RunSettings, LabelledSettings):
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
