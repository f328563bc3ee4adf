"""Settings that several stages share: images, device, run folder, optimisation."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssltool.errors import UsageError
from ssltool.settings import Checked, Rule, flag, setting

STRATEGIES = ("iid", "current", "accumulate", "last")
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

ARCHITECTURES = "ssltool.models.backbones:architectures"
METHODS = "ssltool.methods:METHODS"
METRICS = "ssltool.diagnosis.metrics:METRICS"
"""The registries of architectures, methods and metrics."""

MOST_EPOCHS = 100_000
"""Maximum number of epochs of a run."""


ANY = sys.float_info.max
"""The maximum of rates: with any of them the optimizers diverge, if at all, without an error of torch."""


def reaches(state: str | None, limit: str | None) -> bool:
    """Whether the verdict ``state`` is at least as severe as ``limit``; False if either is None."""
    return state is not None and limit is not None and STATES.index(state) >= STATES.index(limit)


AUTO = "auto"
"""The ``--value-range`` that is taken from a sample."""


def decoders() -> Any:
    """The number of processes that decode images."""
    help = "processes that decode image files [default: one per core, at most 8]"
    return setting(None, help, "-j", section="Data", minimum=0, maximum=1024)


def image_folder(help: str) -> Any:
    """The folder of the images."""
    return setting(None, help, section="Data", metavar="DIR")


def unlabelled_folders(**more: Any) -> Any:
    """The class folders whose images have no label."""
    help = "class folder to read without labels; may be repeated"
    return setting((), help, section="Data", metavar="NAME", advanced=True, **more)


def image_size(default: str, **more: Any) -> Any:
    """The side of the input; ``default`` describes the default in the help."""
    return setting(
        None, f"side of the input in pixels [default: {default}]", section="Data", minimum=8, maximum=8192, **more
    )


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


def weight_decay(default: float, **more: Any) -> Any:
    """The weight decay."""
    return setting(default, "weight decay", section="Optimisation", aliases=("--wd",), minimum=0, maximum=ANY, **more)


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


def precision(help: str = "precision of the forward pass", choices: Collection[str] = ("fp32", "bf16", "fp16")) -> Any:
    """The precision of the arithmetic."""
    return setting("fp32", help, choices=choices, section="Hardware")


def output(help: str, metavar: str = "FILE") -> Any:
    """Where a result is written."""
    return setting(None, help, "-o", section="Output", metavar=metavar)


def wrong_suffix(name: str, path: str | None, *suffixes: str) -> list[str]:
    """The error message if the file of the setting ``name`` does not end in one of ``suffixes``, else none."""
    if path is None or Path(path).suffix.lower() in suffixes:
        return []
    return [f"{flag(name)} {path}: the name must end in {' or '.join(suffixes)}"]


@dataclass(frozen=True)
class DataSettings(Checked):
    """The images, and how they are read."""

    data: str | None = image_folder("folder of the images [default: the bundled Fashion-MNIST subset]")
    dataset_type: str = setting(
        "auto",
        "layout of DATA: auto, {names}, or the paper's imagenet_train, imagenet_train_subset, "
        "places_simsiam_train, ...; auto detects it",
        section="Data",
        names=LAYOUTS,
    )
    idx_path: str | None = setting(
        None, "use only the image numbers in this .npy file", section="Data", metavar="FILE", advanced=True
    )
    unlabelled: tuple[str, ...] = unlabelled_folders()
    download: bool = setting(
        False, "download the dataset into DATA first, if torchvision can", section="Data", advanced=True
    )
    small: bool = setting(False, "the 256-pixel version of Places365", section="Data", advanced=True)
    skip_corrupt: bool = setting(
        False,
        "read every image once before starting and leave out those that cannot be decoded",
        section="Data",
        advanced=True,
    )
    value_range: tuple[str, ...] | None = setting(
        None,
        "values that become black and white, of images with more than 8 bits: two numbers, or auto for the percentiles "
        "0.5 and 99.5 of a sample [default: the range of the type; floats are in 0 to 1]",
        section="Data",
        metavar="LOW HIGH|auto",
        nargs=2,
        alone=(AUTO,),
        fixed=True,
        advanced=True,
    )
    background: str | None = setting(
        None,
        "colour behind transparent pixels, a name or #rrggbb [default: white]",
        section="Data",
        metavar="COLOUR",
        fixed=True,
        advanced=True,
    )
    raw_pixels: bool | None = setting(
        None,
        "read image files as torchvision's ImageFolder does: no background behind transparent pixels, no EXIF "
        "orientation",
        section="Data",
        fixed=True,
        advanced=True,
    )
    max_pixels: int | None = setting(
        None,
        "refuse images with more pixels than this [default: 178,956,970]",
        section="Data",
        metavar="N",
        minimum=1,
        advanced=True,
    )
    image_size: int | None = image_size("224, or the images' own size if all share one up to 96", fixed=True)
    mean: tuple[float, ...] | None = channel_values("mean", minimum=0)
    std: tuple[float, ...] | None = channel_values("standard deviation", above=0)
    interpolation: str | None = setting(
        None,
        "interpolation of resizing [default: the network's own]",
        choices=INTERPOLATIONS,
        section="Data",
        fixed=True,
        advanced=True,
    )
    crop_pct: float | None = setting(
        None,
        "fraction of the resized image's side that the centre crop keeps in the validation transform; 1 crops nothing "
        "of a square image [default: the network's own]",
        section="Data",
        above=0,
        maximum=1,
        fixed=True,
        advanced=True,
    )
    squash: bool | None = setting(
        None,
        "resize both sides in the validation transform, not the shorter one [default: the network's own]",
        section="Data",
        fixed=True,
        advanced=True,
    )
    workers: int | None = decoders()

    def conflicts(self) -> list[Rule]:
        why = "with --raw-pixels, which reads images as torchvision's ImageFolder does"
        return [*super().conflicts(), (("value_range", "background"), bool(self.raw_pixels), why)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data == "":
            raise UsageError("DATA is empty; name the folder of the images, . for the current one")
        if self.value_range is None or tuple(self.value_range) == (AUTO,):
            return
        try:
            low, high = map(float, self.value_range)
        except ValueError:
            low = high = 0.0
        if not math.isfinite(high - low) or low >= high:
            found = " ".join(map(str, self.value_range))
            raise UsageError(f"--value-range is {found}; it must be two numbers, the smaller one first, or {AUTO}")


@dataclass(frozen=True)
class DeviceSettings(Checked):
    """The device that computes."""

    device: str = setting("auto", "device to compute on", choices=("auto", "cpu", "cuda", "mps"), section="Hardware")
    gpu: int | None = setting(None, "index of the CUDA device", section="Hardware", minimum=0, alias=True)

    def conflicts(self) -> list[Rule]:
        unused = self.device not in ("auto", "cuda")
        return [*super().conflicts(), (("gpu",), unused, f"with --device {self.device}")]


@dataclass(frozen=True)
class RunSettings(Checked):
    """The run folder of a training stage."""

    exp_name: str | None = setting(None, "name of the run folder [default: made from the settings]", section="Run")
    exp_id: int = setting(
        0, "number of the run: the folder is logs/EXP_NAME_EXP_ID", section="Run", minimum=0, advanced=True
    )
    out: str | None = setting(None, "run folder, instead of logs/EXP_NAME_EXP_ID", "-o", section="Run", metavar="PATH")
    overwrite: bool = setting(False, "replace the run in the run folder", section="Run")

    def conflicts(self) -> list[Rule]:
        resumes = getattr(self, "resume", None) == "auto"
        return [
            *super().conflicts(),
            (("exp_name", "exp_id"), self.out is not None, "with --out, which names the run folder"),
            (("overwrite",), resumes, "with --resume auto"),
        ]


def as_dict(config: Any) -> dict[str, Any]:
    """The settings as plain values for JSON and checkpoints."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}


def fixed_settings(cls: type) -> list[str]:
    """Names of the settings that must stay the same when a run is resumed."""
    return [f.name for f in dataclasses.fields(cls) if f.metadata.get("fixed")]


@dataclass(frozen=True)
class NetworkSettings(DeviceSettings, DataSettings):
    """The pretrained network of a later stage. None is the checkpoint's own value."""

    data: str | None = image_folder("folder of the images [default: the checkpoint's]")
    image_size: int | None = image_size("the checkpoint's")
    all: bool = setting(
        False,
        "all images of the dataset, if the checkpoint's run used a part of them [default: the train images are those "
        "of the run]",
        section="Data",
        advanced=True,
    )
    pretrained: str | None = setting(
        None,
        "checkpoint of ssltool or another library, a folder of transformers or timm, random (an untrained network of "
        "--arch), torchvision:DEFAULT (torchvision's weights of --arch), or published weights: timm:NAME.TAG, "
        "hf-hub:OWNER/NAME",
        section="Model",
        metavar="FILE",
    )
    arch: str | None = network_arch()
    stem: str | None = network_stem()
    key: str | None = network_key()
    random: bool = setting(
        False, "use an untrained network of the checkpoint's architecture, as a baseline", section="Model"
    )

    @property
    def untrained(self) -> bool:
        """Whether the network has random weights."""
        return self.random or self.pretrained == "random"

    def conflicts(self) -> list[Rule]:
        unused = self.pretrained == "random"
        return [
            *super().conflicts(),
            (("random", "key"), unused, "with --pretrained random"),
            (
                ("key",),
                str(self.pretrained).startswith("torchvision:"),
                "with published weights, which are one network",
            ),
            (("all",), self.idx_path is not None, "with --idx-path, which names the images"),
            (("all",), self.data is not None, "with DATA: without --idx-path, all of its images are used"),
        ]


@dataclass(frozen=True)
class LabelledSettings(NetworkSettings):
    """The labels that a stage trains on."""

    unlabelled: tuple[str, ...] = unlabelled_folders(fixed=True)
    labels_fraction: float = setting(
        1.0,
        "fraction of the labelled training images of each class to use; the semi-supervised protocols use 0.01 and 0.1",
        section="Data",
        above=0,
        maximum=1,
        fixed=True,
    )
    seed: int = seed("labels, weights, order and crops", section="Optimisation", fixed=True)
