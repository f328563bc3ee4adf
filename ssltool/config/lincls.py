"""The settings of ``ssltool lincls``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.config.common import LabelledSettings, RunSettings
from ssltool.config.fields import (
    TRANSFORM,
    batch_size,
    epochs,
    labels_by,
    learning_rate,
    momentum,
    pool_rows,
    same_images,
    weight_decay,
)
from ssltool.settings import Rule, numbers, setting
from ssltool.training import optimizer_rule, optimizers_of

OF_IMAGES = (
    *("data", "dataset_type", "idx_path", "all", "unlabelled", "download", "small", "skip_corrupt"),
    *("cache", "cache_size"),
    *("image_size", *TRANSFORM, "workers", "value_range", "background", "raw_pixels", "max_pixels"),
    *("pretrained", "arch", "stem", "key", "random", "momentum_teacher"),
)
OF_SGD = ("optimizer", "lars", "epochs", "batch_size", "lr", "lr_sweep", "momentum", "weight_decay")
OF_LBFGS = ("c", "c_grid", "max_iter")
OF_TRAINING = (*OF_SGD, *OF_LBFGS, "solver", "standardise", "labels_fraction", "holdout", "idx_path", "overwrite")
OF_THE_FOLDER = ("out", "exp_name", "exp_id")


@dataclass(frozen=True)
class LinclsConfig(RunSettings, LabelledSettings):
    """Settings of ``ssltool lincls``."""

    reprs: tuple[str, ...] | None = setting(
        None,
        "train on a file of save-reprs instead of images, and evaluate on a second one",
        section="Data",
        metavar="TRAIN VAL",
        nargs=2,
    )
    pool: str | None = pool_rows("Data")
    same_images: str = same_images("which images of VAL are in TRAIN too, which is an error", "Data")
    labels_by: str = labels_by("Data")
    holdout: float = setting(
        0.1,
        "fraction of the training images of each class that --lr-sweep and --c-grid hold out for the choice",
        section="Data",
        above=0,
        maximum=0.9,
        fixed=True,
    )
    standardise: bool | None = setting(
        None,
        "scale every dimension to mean 0 and standard deviation 1 on TRAIN first [default: only with lbfgs]",
        section="Data",
        fixed=True,
        advanced=True,
    )
    solver: str = setting(
        "sgd",
        "solver for --reprs: SGD as on images, or L-BFGS, which converges to the optimum",
        choices=("sgd", "lbfgs"),
        section="Optimisation",
        fixed=True,
    )
    optimizer: str | None = setting(
        None,
        "optimizer [default: sgd]",
        choices=optimizers_of("lincls"),
        section="Optimisation",
        fixed=True,
    )
    lars: bool = setting(False, "same as --optimizer larc", section="Optimisation", alias=True)
    epochs: int = epochs(90, fixed=True)
    batch_size: int | None = batch_size(
        None,
        "images in a batch [default: 4096; 256 for fewer than 100,000 training images]",
        minimum=1,
        fixed=True,
    )
    lr: float = learning_rate(0.1, fixed=True)
    lr_sweep: str | None = setting(
        None,
        "train with several learning rates at once, as in 0.03,0.1,0.3,1, in one pass over the data; the best is "
        "chosen on held-out training images",
        section="Optimisation",
        metavar="LIST",
        fixed=True,
    )
    momentum: float = momentum("momentum", fixed=True)
    weight_decay: float = weight_decay(0.0, fixed=True, advanced=True)
    c: float = setting(
        1.0, "inverse regularisation strength of lbfgs, as in scikit-learn", section="Optimisation", above=0
    )
    c_grid: str | None = setting(
        None,
        "try several values of --c, as in 0.01,0.1,1,10; the best is chosen on held-out training rows, then "
        "fitted to all rows",
        section="Optimisation",
        metavar="LIST",
    )
    max_iter: int = setting(1000, "maximum number of iterations of lbfgs", section="Optimisation", minimum=1)
    resume: str | None = setting(
        None,
        "resume from this probe.pt, or with auto from the one in the run folder if there is one",
        section="Run",
        metavar="PATH|auto",
    )
    evaluate: bool = setting(
        False, "evaluate the probe that --resume names on the val images, train nothing", "-e", section="Run"
    )

    @property
    def chooses(self) -> bool:
        """Whether a learning rate or C is chosen on held-out training rows."""
        return self.lr_sweep is not None or self.c_grid is not None

    @property
    def optimizer_name(self) -> str:
        """The optimizer of SGD: ``--lars`` is LARC, as in the paper."""
        return "larc" if self.lars else self.optimizer or "sgd"

    def conflicts(self) -> list[Rule]:
        files, lbfgs = self.reprs is not None, self.solver == "lbfgs"
        return [
            *super().conflicts(),
            (("evaluate",), self.resume is None, "without --resume, which names the probe to evaluate"),
            (OF_TRAINING, self.evaluate, "with --evaluate, which trains nothing"),
            (OF_THE_FOLDER, self.evaluate and self.resume != "auto", "with --evaluate, which writes nothing"),
            (OF_IMAGES, files, "with --reprs, which replaces images and network"),
            (("solver", "standardise", "pool", "same_images"), not files, "without --reprs"),
            (("labels_by",), not files and not self.evaluate, "without --reprs or --evaluate"),
            ((*OF_SGD, "resume"), lbfgs, "with --solver lbfgs"),
            optimizer_rule(self, self.optimizer_name),
            (OF_LBFGS, not lbfgs, "without --solver lbfgs"),
            (("lr",), self.lr_sweep is not None, "with --lr-sweep"),
            (("c",), self.c_grid is not None, "with --c-grid"),
            (("holdout",), not self.chooses, "without --lr-sweep or --c-grid"),
        ]

    def mistakes(self) -> Iterator[str]:
        yield from super().mistakes()
        if self.lars and self.optimizer not in (None, "larc"):
            yield f"--lars is --optimizer larc, and --optimizer is {self.optimizer}; leave one of them out"
        for name in ("lr_sweep", "c_grid"):
            if getattr(self, name) is not None:
                numbers(getattr(self, name), name)
