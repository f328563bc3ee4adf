"""The settings of ``ssltool finetune``."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.common import LabelledSettings, RunSettings
from ssltool.settings import setting
from ssltool.training import optimizers_of


@dataclass(frozen=True)
class FinetuneConfig(RunSettings, LabelledSettings):
    """Settings of ``ssltool finetune``."""

    from_scratch: bool = setting(
        False, "also train an untrained network of the same make by the same budget, and print the difference"
    )
    seeds: int = setting(
        1, "how often, with the seeds --seed, --seed + 1, ...; of two and more the spread is printed", minimum=1
    )

    crop_min: float = setting(
        0.08, "smallest area of a random crop, as a share of the image", section="Views", above=0, maximum=1
    )

    epochs: int = setting(30, "epochs", section="Optimisation", minimum=1)
    batch_size: int | None = setting(
        None,
        "images in a batch; all of them, where there are fewer [default: 256; 128 on the bundled data]",
        "-b",
        section="Optimisation",
        minimum=2,
    )
    optimizer: str = setting("sgd", "update rule", choices=optimizers_of("finetune"), section="Optimisation")
    lr: float = setting(
        0.3,
        "learning rate for a batch of 256; scaled with the batch",
        "--learning-rate",
        section="Optimisation",
        above=0,
    )
    head_lr: float | None = setting(
        None,
        "learning rate of the pretrained network's new classifier [default: --lr]",
        section="Optimisation",
        above=0,
    )
    scratch_lr: float | None = setting(
        None, "learning rate of the network from scratch [default: --lr]", section="Optimisation", above=0
    )
    layer_decay: float = setting(
        1.0,
        "factor from each layer of the pretrained network to the one before it, by which its learning rate is lower",
        section="Optimisation",
        above=0,
        maximum=1,
    )
    momentum: float = setting(0.9, "momentum of SGD", section="Optimisation", minimum=0, maximum=1)
    weight_decay: float = setting(1e-4, "weight decay", "--wd", section="Optimisation", minimum=0)
    warmup_epochs: int = setting(0, "epochs of linear warm-up", section="Optimisation", minimum=0)
    label_smoothing: float = setting(
        0.0, "share of each label that is spread over all classes", section="Optimisation", minimum=0, maximum=1
    )

    resume: str | None = setting(
        None, "go on with the run that the folder holds, if it holds one", choices=("auto",), section="Run"
    )
    precision: str = setting(
        "fp32", "arithmetic of the forward pass", choices=("fp32", "bf16", "fp16"), section="Hardware"
    )
