"""The settings of ``ssltool lincls``."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.common import LabelledSettings, RunSettings
from ssltool.settings import setting
from ssltool.training import optimizers_of


@dataclass(frozen=True)
class LinclsConfig(RunSettings, LabelledSettings):
    """Settings of ``ssltool lincls``."""

    reprs: tuple[str, ...] | None = setting(
        None,
        "learn from two files of save-reprs instead of images, and be scored on the second",
        section="Data",
        metavar="TRAIN VAL",
        nargs=2,
    )
    holdout: float = setting(
        0.1,
        "share of the training images of each class on which --lr-sweep and --c-grid choose",
        section="Data",
        above=0,
        maximum=0.9,
        fixed=True,
    )
    standardise: bool | None = setting(
        None,
        "bring every dimension of the representations to mean 0 and deviation 1 first, as those of TRAIN have it "
        "[default: with lbfgs]",
        section="Data",
        fixed=True,
    )
    solver: str = setting(
        "sgd",
        "how to learn from representations: SGD as from images, or L-BFGS, which ends at the optimum",
        choices=("sgd", "lbfgs"),
        section="Optimisation",
        fixed=True,
    )
    optimizer: str | None = setting(
        None,
        "update rule [default: sgd]",
        choices=optimizers_of("lincls"),
        section="Optimisation",
        fixed=True,
    )
    lars: bool = setting(False, "the paper's name for --optimizer larc", section="Optimisation")
    epochs: int = setting(90, "epochs", section="Optimisation", minimum=1, fixed=True)
    batch_size: int | None = setting(
        None,
        "images in a batch [default: 4096; 256 where fewer than 100,000 are learnt from]",
        "-b",
        section="Optimisation",
        minimum=1,
        fixed=True,
    )
    lr: float = setting(
        0.1,
        "learning rate for a batch of 256; scaled with the batch",
        "--learning-rate",
        section="Optimisation",
        above=0,
        fixed=True,
    )
    lr_sweep: str | None = setting(
        None,
        "several rates at once, as in 0.03,0.1,0.3,1: one pass over the data, the best chosen on held-out training "
        "images",
        section="Optimisation",
        metavar="LIST",
        fixed=True,
    )
    momentum: float = setting(0.9, "momentum", section="Optimisation", minimum=0, maximum=1, fixed=True)
    weight_decay: float = setting(0.0, "weight decay", "--wd", section="Optimisation", minimum=0, fixed=True)
    c: float = setting(
        1.0, "inverse strength of the penalty of lbfgs, as in scikit-learn", section="Optimisation", above=0
    )
    c_grid: str | None = setting(
        None,
        "several C, as in 0.01,0.1,1,10: the best chosen on held-out training rows, then all are learnt from",
        section="Optimisation",
        metavar="LIST",
    )
    max_iter: int = setting(1000, "most iterations of lbfgs", section="Optimisation", minimum=1)
    resume: str | None = setting(
        None,
        "go on from a probe.pt, or with auto from the run folder's own if there is one",
        section="Run",
        metavar="PATH|auto",
    )
    evaluate: bool = setting(
        False, "score the probe that --resume names on the val images, and train nothing", "-e", section="Run"
    )
