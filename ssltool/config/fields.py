"""Values and declarations of single settings that several commands have."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ssltool.settings import flag, setting

STRATEGIES = ("iid", "current", "accumulate", "last", "replay")
REPLAY_RULES = ("reservoir", "fifo")
LAYOUTS = "ssltool.data.layouts:LAYOUTS"
"""The registry of dataset layouts."""

SPLITS = ("train", "val", "test", "unlabeled")
STEMS = ("auto", "imagenet", "small", "small-stride2", "small-padded")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
TRANSFORM = ("mean", "std", "interpolation", "crop_pct", "squash")
"""The settings that change a network's own transform, beside the image size."""

LAYERS = ("backbone", "projector", "predictor")
SPECTRA = ("svd", "cov", "std")
FIGURES = (".png", ".pdf", ".svg")

STATES = ("healthy", "partial", "complete")
"""The verdicts on collapse, from none to complete."""

ARCHITECTURES = "ssltool.models.backbones:completions"
METHODS = "ssltool.methods:METHODS"
METRICS = "ssltool.diagnosis.metrics:METRICS"
REGULARISERS = "ssltool.methods.regularisers:REGULARISERS"
"""The registries of architectures, methods, metrics and regularisers."""

LIMITS = "ssltool.diagnosis.limits:choices"
"""The severities and kinds of collapse."""

SETS_OF_METRICS = ("all", "renyi")
"""Names in a list of metrics that mean several."""

MOST_EPOCHS = 100_000
"""Maximum number of epochs of a run."""


ANY = sys.float_info.max
"""The maximum of rates: with any of them the optimizers diverge, if at all, without an error of torch."""


def limit(help: str, **more: Any) -> Any:
    """The severities and kinds of collapse at which a command fails or stops."""
    help += ": partial, complete, or kinds of collapse, comma-separated; docs/kinds.md lists these"
    return setting(None, help, names=LIMITS, metavar="A,B", **more)


AUTO = "auto"
"""The ``--value-range`` that is taken from a sample, and the ``--exp-id`` that is the next one."""


def decoders(what: str = "processes") -> Any:
    """The number of processes or threads that decode images."""
    help = f"{what} that decode image files [default: one per core, at most 8]"
    return setting(None, help, "-j", section="Data", minimum=0, maximum=1024)


def image_folder(help: str) -> Any:
    """The folder of the images."""
    return setting(None, help, section="Data", metavar="DIR")


def all_images() -> Any:
    """Whether all images are used where the run of a checkpoint used a part of them."""
    help = (
        "all images of the dataset, if the checkpoint's run used a part of them [default: the train images are those "
        "of the run]"
    )
    return setting(False, help, section="Data", advanced=True)


def unlabelled_folders(**more: Any) -> Any:
    """The class folders whose images have no label."""
    help = "class folder to read without labels; may be repeated"
    return setting((), help, section="Data", metavar="NAME", advanced=True, **more)


def image_size(default: str, **more: Any) -> Any:
    """The side of the input; ``default`` describes the default in the help."""
    return setting(
        None, f"side of the input in pixels [default: {default}]", section="Data", minimum=8, maximum=8192, **more
    )


def cache_size(default: int | None, help: str, **more: Any) -> Any:
    """The shorter side of the images in a cache."""
    return setting(default, help, section="Data", metavar="PIXELS", minimum=8, maximum=8192, **more)


def channel_values(what: str, **bounds: Any) -> Any:
    """A statistic of the channels, for pixels in [0, 1]."""
    help = f"{what} of the channels that standardises the input, for pixels in 0 to 1 [default: the network's own]"
    shown: dict[str, Any] = {"section": "Data", "metavar": "R G B", "advanced": True}
    return setting(None, help, nargs=3, maximum=1, fixed=True, **bounds, **shown)


def network_arch() -> Any:
    """The backbone of a checkpoint."""
    help = "backbone, also timm:NAME or torchvision:NAME [default: the checkpoint's]"
    return setting(None, help, "-a", section="Model", names=ARCHITECTURES)


def network_stem() -> Any:
    """The stem of a checkpoint's backbone."""
    help = "first layers of a ResNet [default: the checkpoint's]"
    return setting(None, help, section="Model", choices=STEMS, advanced=True)


def network_key() -> Any:
    """The network that is taken from a checkpoint that holds several."""
    help = (
        "network to take from another program's checkpoint that holds several: the keys of its dict, such as "
        "model/student, or the beginning of its parameters' names, such as momentum_encoder"
    )
    return setting(None, help, section="Model", metavar="PATH", advanced=True)


def epochs(default: int | None, help: str = "epochs", **more: Any) -> Any:
    """The number of epochs."""
    return setting(default, help, section="Optimisation", minimum=1, maximum=MOST_EPOCHS, **more)


def batch_size(default: int | None, help: str, *, section: str = "Optimisation", minimum: int = 2, **more: Any) -> Any:
    """The number of images in a batch."""
    return setting(default, help, "-b", section=section, minimum=minimum, **more)


def learning_rate(
    default: float | None, help: str = "learning rate for a batch of 256; scaled with the batch size", **more: Any
) -> Any:
    """The learning rate; by default it is scaled with the batch size."""
    return setting(default, help, section="Optimisation", aliases=("--learning-rate",), above=0, maximum=ANY, **more)


def momentum(help: str, **more: Any) -> Any:
    """The momentum of the optimizer."""
    return setting(0.9, help, section="Optimisation", minimum=0, maximum=1, advanced=True, **more)


def weight_decay(default: float | None, help: str = "weight decay", **more: Any) -> Any:
    """The weight decay."""
    return setting(default, help, section="Optimisation", aliases=("--wd",), minimum=0, maximum=ANY, **more)


def warmup_epochs(**more: Any) -> Any:
    """The number of warm-up epochs."""
    return setting(0, "epochs of linear warm-up", section="Optimisation", minimum=0, maximum=MOST_EPOCHS, **more)


def warmup_mistakes(warmup: int, epochs: int | None) -> list[str]:
    """The error message if the warm-up is not shorter than the run, else none."""
    if not warmup or epochs is None or warmup < epochs:
        return []
    return [f"--warmup-epochs {warmup} must be smaller than --epochs ({epochs})"]


def seed(help: str, *, section: str = "Options", **more: Any) -> Any:
    """The seed of random numbers."""
    return setting(10, f"seed of {help}", section=section, minimum=0, **more)


def probability(default: float | None, what: str) -> Any:
    """The probability of a random change of a view."""
    return setting(default, f"probability of {what}", section="Views", minimum=0, maximum=1, advanced=True)


def crop_min(default: float | None, note: str = "", **more: Any) -> Any:
    """The minimum area of a random crop."""
    help = f"minimum area of a random crop, as a fraction of the image{note}"
    return setting(default, help, section="Views", above=0, maximum=1, **more)


def pool_rows(section: str = "Options") -> Any:
    """How several rows of an image in a file of representations are read."""
    help = (
        "files with several rows of an image, such as feature maps (N, D, H, W): average them (mean), or keep a row "
        "for each position (none) [default: an error]"
    )
    return setting(None, help, choices=("mean", "none"), section=section, advanced=True)


def search_memory() -> Any:
    """The memory of a search of neighbours."""
    help = "memory limit of the search in MiB, besides mapped files and the result; on a GPU, more is faster"
    return setting(512, help, section="Hardware", minimum=16, maximum=2**40)


def same_images(what: str, section: str = "Options") -> Any:
    """How the images of two files are compared."""
    help = f"{what}: those of one number in one dataset (index), or of equal content (content)"
    return setting("index", help, choices=("index", "content"), section=section, advanced=True)


def labels_by(section: str = "Options") -> Any:
    """How the classes of two files are compared."""
    help = "compare classes by their names, or by their numbers although the files have different names"
    return setting("name", help, choices=("name", "number"), section=section, advanced=True)


def resume_auto() -> Any:
    """Whether to continue the run of the folder."""
    help = "continue the run in the run folder, if there is one"
    return setting(None, help, choices=("auto",), section="Run")


def precision(
    help: str = "precision of the forward pass",
    choices: Collection[str] = ("fp32", "bf16", "fp16"),
    default: str = "fp32",
) -> Any:
    """The precision of the arithmetic."""
    return setting(default, help, choices=choices, section="Hardware")


def thresholds() -> Any:
    """Changed thresholds of the verdict."""
    help = "change a threshold of the verdict; repeatable. docs/collapse.md lists them"
    return setting((), help, section="Verdict", metavar="NAME=VALUE")


def output(help: str, metavar: str = "FILE") -> Any:
    """Where a result is written."""
    return setting(None, help, "-o", section="Output", metavar=metavar, writes=True)


def wrong_suffix(name: str, path: str | None, *suffixes: str) -> list[str]:
    """The error message if the file of the setting ``name`` does not end in one of ``suffixes``, else none."""
    if path is None or Path(path).suffix.lower() in suffixes:
        return []
    return [f"{flag(name)} {path}: the name must end in {' or '.join(suffixes)}"]
