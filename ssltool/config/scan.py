"""The settings of ``ssltool scan``."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.common import NetworkSettings, RunSettings
from ssltool.settings import setting

STEPS = ("mine", "cluster", "selflabel")
"""The steps of SCAN, in order."""


@dataclass(frozen=True)
class ScanConfig(RunSettings, NetworkSettings):
    """Settings of ``ssltool scan``."""

    step: str = setting(
        "all", "which step; each reads what the one before it wrote into the run folder", choices=(*STEPS, "all")
    )
    clusters: int | None = setting(None, "clusters [default: the classes of the images, where known]", minimum=2)
    kmeans: bool = setting(False, "also cluster the representations by k-means, as the baseline")

    reprs: str | None = setting(
        None,
        "representations of the train images to mine in, a file of save-reprs [default: the backbone's outputs]",
        section="Data",
        metavar="FILE",
    )

    neighbours: int = setting(20, "neighbours of each image to mine", section="Method", minimum=1)
    heads: int = setting(
        1,
        "classifiers trained side by side on the backbone; the one with the lowest loss is kept",
        section="Method",
        minimum=1,
    )
    entropy_weight: float = setting(
        5.0, "weight of the entropy that keeps the clusters apart", section="Method", minimum=0
    )
    threshold: float = setting(
        0.99, "probability above which self-labelling trusts an answer", section="Method", minimum=0, maximum=1
    )

    crop_min: float | None = setting(
        None,
        "smallest area of a random crop [default: 0.5 up to 64 px, else the checkpoint's]",
        section="Views",
        above=0,
        maximum=1,
    )
    erase_p: float = setting(0.5, "probability of erasing a box", section="Views", minimum=0, maximum=1)

    epochs: int | None = setting(
        None, "epochs of clustering [default: 50; 15 on the bundled data]", section="Optimisation", minimum=1
    )
    selflabel_epochs: int | None = setting(
        None, "epochs of self-labelling [default: 100; 5 on the bundled data]", section="Optimisation", minimum=1
    )
    batch_size: int = setting(
        128, "images in a batch of clustering, beside a neighbour of each", "-b", section="Optimisation", minimum=2
    )
    selflabel_batch_size: int | None = setting(
        None,
        "images in a batch of self-labelling [default: 1000; 250 on the bundled data]",
        section="Optimisation",
        minimum=2,
    )
    lr: float | None = setting(
        None,
        "learning rate of clustering by Adam; constant, and not scaled with the batch "
        "[default: 0.0001; 0.001 on the bundled data]",
        "--learning-rate",
        section="Optimisation",
        above=0,
    )
    selflabel_lr: float = setting(1e-4, "learning rate of self-labelling, alike", section="Optimisation", above=0)
    weight_decay: float = setting(1e-4, "weight decay", "--wd", section="Optimisation", minimum=0)
    seed: int = setting(10, "seed of weights, order, neighbours and crops", section="Optimisation", minimum=0)

    resume: str | None = setting(
        None, "go on with the run that the folder holds, if it holds one", choices=("auto",), section="Run"
    )
    precision: str = setting(
        "fp32", "arithmetic of the forward pass", choices=("fp32", "bf16", "fp16"), section="Hardware"
    )
