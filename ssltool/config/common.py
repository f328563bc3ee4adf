"""Settings that several stages share: images, device, run folder, optimisation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ssltool.config.fields import (
    AUTO,
    FIGURES,
    INTERPOLATIONS,
    LAYOUTS,
    SPLITS,
    all_images,
    batch_size,
    cache_size,
    channel_values,
    decoders,
    image_folder,
    image_size,
    network_arch,
    network_key,
    network_stem,
    output,
    pool_rows,
    search_memory,
    seed,
    unlabelled_folders,
    wrong_suffix,
)
from ssltool.errors import UsageError
from ssltool.settings import Checked, Rule, setting


@dataclass(frozen=True)
class SourceSettings(Checked):
    """The images of a dataset, and how they become 8-bit RGB."""

    data: str | None = image_folder(
        "images: a folder, archive, table, shards or hf:NAME [default: the bundled Fashion-MNIST subset]"
    )
    dataset_type: str = setting(
        "auto",
        "layout of DATA: auto, {names}, or the paper's imagenet_train, imagenet_train_subset, "
        "places_simsiam_train, ...; auto detects it",
        section="Data",
        names=LAYOUTS,
    )
    image_column: str | None = setting(
        None,
        "column of a table that holds images or their paths; of WebDataset samples the extension [default: detected]",
        section="Data",
        metavar="NAME",
        advanced=True,
    )
    label_column: str | None = setting(
        None,
        "column of a table that holds the labels; of WebDataset samples an extension, or a field of their .json "
        "[default: detected]",
        section="Data",
        metavar="NAME",
        advanced=True,
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
class DataSettings(SourceSettings):
    """The images, and how they are read."""

    idx_path: str | None = setting(
        None, "use only the image numbers in this .npy file", section="Data", metavar="FILE", advanced=True
    )
    cache: str | None = setting(
        None,
        "folder of decoded, resized images, which are used instead of the files; written first if it has none",
        section="Data",
        metavar="DIR",
        advanced=True,
    )
    cache_size: int | None = cache_size(
        None, "shorter side of the images in --cache [default: that of the cache, or 256]", fixed=True, advanced=True
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache == "":
            raise UsageError("--cache is empty; name the folder of the cache")


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
    exp_id: int | str = setting(
        0,
        "number of the run: the folder is logs/EXP_NAME_EXP_ID; auto takes the next one",
        section="Run",
        metavar="N|auto",
        minimum=0,
        alone=(AUTO,),
        advanced=True,
    )
    out: str | None = setting(None, "run folder, instead of logs/EXP_NAME_EXP_ID", "-o", section="Run", metavar="PATH")
    overwrite: bool = setting(False, "replace the run in the run folder", section="Run")

    def conflicts(self) -> list[Rule]:
        resumes = getattr(self, "resume", None) == "auto"
        return [
            *super().conflicts(),
            (("exp_name", "exp_id"), self.out is not None, "with --out, which names the run folder"),
            (("overwrite",), resumes, "with --resume auto"),
            (("overwrite",), self.exp_id == AUTO, "with --exp-id auto, which takes a new folder"),
        ]

    def mistakes(self) -> Iterator[str]:
        yield from super().mistakes()
        if self.exp_id == AUTO and getattr(self, "resume", None) == "auto":
            yield "--exp-id auto starts a new run and --resume auto continues one; give the number of the run"


def as_dict(config: Any) -> dict[str, Any]:
    """The settings as plain values for JSON and checkpoints."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}


def fixed_settings(cls: type) -> list[str]:
    """Names of the settings that must stay the same when a run is resumed."""
    return [f.name for f in dataclasses.fields(cls) if f.metadata.get("fixed")]


@dataclass(frozen=True)
class NetworkSettings(DeviceSettings, DataSettings):
    """The pretrained network of a later stage. None is the checkpoint's own value."""

    data: str | None = image_folder("images: a folder, archive, table, shards or hf:NAME [default: the checkpoint's]")
    image_size: int | None = image_size("the checkpoint's")
    all: bool = all_images()
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
    momentum_teacher: bool = setting(
        False,
        "use the momentum teacher of the checkpoint instead of the network that was trained, as is usual for DINO",
        section="Model",
        advanced=True,
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
            (("momentum_teacher",), self.untrained, "with an untrained network, which has no teacher"),
            (
                ("key",),
                str(self.pretrained).startswith("torchvision:"),
                "with published weights, which are one network",
            ),
            (("all",), self.idx_path is not None, "with --idx-path, which names the images"),
            (("all",), self.data is not None, "with DATA: without --idx-path, all of its images are used"),
        ]


@dataclass(frozen=True)
class CheckpointsSettings(DeviceSettings, DataSettings):
    """Checkpoints that are measured on the same images. None is the checkpoint's own value."""

    data: str | None = image_folder(
        "images for checkpoints: folder, archive, table, shards, hf:NAME [default: the checkpoint's, else the bundled]"
    )
    all: bool = all_images()
    split: str | None = setting(
        None,
        "split of the images [default: the one that --dataset-type names, else train]",
        choices=SPLITS,
        section="Data",
    )
    sample: int = setting(
        1024, "use this many of the images, drawn at random, or all if there are fewer", section="Data", minimum=2
    )
    batch_size: int = batch_size(256, "images in a batch", section="Data", minimum=1)
    seed: int | None = setting(None, "seed of the sample [default: the checkpoint's]", section="Data", minimum=0)
    arch: str | None = network_arch()
    stem: str | None = network_stem()
    key: str | None = network_key()

    def conflicts(self) -> list[Rule]:
        return [
            *super().conflicts(),
            (("all",), self.idx_path is not None, "with --idx-path, which names the images"),
            (("all",), self.data is not None, "with --data: without --idx-path, all of its images are used"),
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


@dataclass(frozen=True)
class SimilarImagesSettings(DeviceSettings):
    """What the commands have in common that list images by the distances of their representations."""

    pool: str | None = pool_rows()
    data: str | None = image_folder("folder of the images of --sheet, if it was moved [default: the one of save-reprs]")
    memory: int = search_memory()
    out: str | None = output("write the whole list to this .csv or .json file")
    sheet: str | None = setting(
        None,
        "write a contact sheet with the pictures and their names: .html, .png, .pdf or .svg",
        section="Output",
        metavar="FILE",
        writes=True,
    )

    def conflicts(self) -> list[Rule]:
        return [*super().conflicts(), (("data",), self.sheet is None, "without --sheet")]

    def mistakes(self) -> Iterator[str]:
        yield from wrong_suffix("out", self.out, ".csv", ".json")
        yield from wrong_suffix("sheet", self.sheet, ".html", ".htm", *FIGURES)
