"""The settings of ``ssltool scan``."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.common import NetworkSettings, RunSettings
from ssltool.config.fields import (
    MOST_EPOCHS,
    TRANSFORM,
    batch_size,
    crop_min,
    epochs,
    learning_rate,
    pool_rows,
    precision,
    probability,
    resume_auto,
    seed,
    weight_decay,
)
from ssltool.settings import Rule, setting

STEPS = ("mine", "cluster", "selflabel")
"""The steps of SCAN, in order."""

OF_TRAINING = ("crop_min", "erase_p", "weight_decay", "precision")
OF_CLUSTERING = ("heads", "head_only", "entropy_weight", "epochs", "batch_size", "lr")
OF_LABELLING = ("threshold", "selflabel_epochs", "selflabel_batch_size", "selflabel_lr")
OF_NETWORK = ("pretrained", "arch", "stem", "key", "random", "momentum_teacher")


@dataclass(frozen=True)
class ScanConfig(RunSettings, NetworkSettings):
    """Settings of ``ssltool scan``."""

    step: str = setting(
        "all", "step to run; each reads the previous step's file in the run folder", choices=(*STEPS, "all")
    )
    clusters: int | None = setting(None, "number of clusters [default: the number of classes, if known]", minimum=2)
    kmeans: bool = setting(False, "also cluster the representations with k-means, as a baseline")

    reprs: str | None = setting(
        None,
        "find neighbours in these representations of the train images, a file of save-reprs "
        "[default: the backbone's outputs]",
        section="Data",
        metavar="FILE",
    )
    pool: str | None = pool_rows("Data")

    neighbours: int = setting(20, "neighbours of each image", section="Method", minimum=1)
    heads: int = setting(
        1,
        "classifiers trained in parallel on the backbone; the one with the lowest loss is kept",
        section="Method",
        minimum=1,
        maximum=1000,
        advanced=True,
    )
    head_only: bool = setting(
        False,
        "clustering trains the classifiers alone, by SGD, as the authors do on ImageNet; the backbone does not change",
        section="Method",
        advanced=True,
    )
    entropy_weight: float = setting(
        5.0, "weight of the entropy term, which prevents empty clusters", section="Method", minimum=0, advanced=True
    )
    threshold: float = setting(
        0.99,
        "probability above which self-labelling uses a prediction",
        section="Method",
        minimum=0,
        maximum=1,
        advanced=True,
    )

    crop_min: float | None = crop_min(
        None,
        " [default: up to 64 px 0.5 in clustering and 1, no crops, in self-labelling, else the checkpoint's]",
        advanced=True,
    )
    erase_p: float = probability(0.5, "random erasing")

    epochs: int | None = epochs(None, "epochs of clustering [default: 50; 100 with --head-only; 15 on bundled data]")
    selflabel_epochs: int | None = setting(
        None,
        "epochs of self-labelling [default: 200 up to 64 px, 100 below 224 px, else 25; 5 on the bundled data]",
        section="Optimisation",
        minimum=1,
        maximum=MOST_EPOCHS,
    )
    batch_size: int = batch_size(128, "images in a batch of clustering, each with a neighbour")
    selflabel_batch_size: int | None = setting(
        None,
        "images in a batch of self-labelling [default: 1000; 250 on the bundled data]",
        section="Optimisation",
        minimum=2,
        advanced=True,
    )
    lr: float | None = learning_rate(
        None,
        "learning rate of clustering with Adam; constant, and not scaled with the batch size "
        "[default: 0.0001; 0.001 on the bundled data; 5 with --head-only]",
    )
    selflabel_lr: float = setting(
        1e-4, "learning rate of self-labelling with Adam; constant", section="Optimisation", above=0, advanced=True
    )
    weight_decay: float | None = weight_decay(
        None, "weight decay [default: 0.0001; 0 for clustering with --head-only]", advanced=True
    )
    seed: int = seed("weights, order, neighbours and crops", section="Optimisation")

    resume: str | None = resume_auto()
    precision: str = precision()

    def conflicts(self) -> list[Rule]:
        step, why = self.step, f"with --step {self.step}"
        return [
            *super().conflicts(),
            (("neighbours",), step not in ("mine", "all"), why),
            (("reprs",), step not in ("mine", "all") and not self.kmeans, why),
            (("pool",), self.reprs is None, "without --reprs"),
            (OF_CLUSTERING, step not in ("cluster", "all"), why),
            (OF_LABELLING, step not in ("selflabel", "all"), why),
            (OF_TRAINING, step == "mine", why),
            (("clusters", "seed"), step == "mine" and not self.kmeans, why),
            (("clusters", "kmeans", *OF_NETWORK), step == "selflabel", f"{why}, which reads clusters.pt"),
            ((*OF_NETWORK, *TRANSFORM), step == "mine" and self.reprs is not None, "with --step mine and --reprs"),
        ]
