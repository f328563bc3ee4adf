"""Loads the network of ``--pretrained``, and finds the dataset that it was trained on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from ssltool.checkpoints.build import build_method, outline_method
from ssltool.checkpoints.convert import ForeignBackbone, backbone_checkpoint, read_checkpoint
from ssltool.checkpoints.hub import HUB, TIMM, hub_folder, published_timm
from ssltool.checkpoints.match_architecture import BackboneSpec
from ssltool.checkpoints.model_folder import find_model_folder, folder_hash
from ssltool.checkpoints.named_backbone import check_given
from ssltool.checkpoints.saved_run import SavedData, SavedRun
from ssltool.checkpoints.setting_names import PROGRAM, SSLTOOL
from ssltool.checkpoints.torchvision_weights import published_weights
from ssltool.config import LAYERS, NetworkSettings, PretrainConfig
from ssltool.data.detection import detect, parse_type
from ssltool.data.images import check_pixel_flags, open_dataset
from ssltool.data.preprocessing import Preprocessing, refuse_unused
from ssltool.data.strategies import read_numbers
from ssltool.errors import SSLToolError, UsageError, found_in
from ssltool.files.integrity import check_file
from ssltool.files.reading import file_hash
from ssltool.files.stored import weights_hash
from ssltool.methods.base import Method
from ssltool.methods.parts.momentum import teacher_network
from ssltool.models.backbones import check_size, family_of, resolve_stem
from ssltool.reprs.nonfinite import all_finite
from ssltool.settings import Record
from ssltool.training import distributed
from ssltool.training.launch import one_process
from ssltool.training.restore import check_weights, load_weights
from ssltool.training.setup import DEFAULT_SIZE, numbers_hash

C = TypeVar("C", bound=NetworkSettings)

RANDOM = "random"
"""The value of ``--pretrained`` for an untrained network of ``--arch``."""

PUBLISHED = "torchvision:"
"""The prefix, in ``--pretrained``, of the name of weights published by torchvision."""

UNTRAINED = "untrained"
"""The method name of untrained networks."""

BUNDLED = "bundled"
"""The name of the dataset that is installed with ssltool."""


@dataclass
class Pretrained:
    """A network in eval mode on its device.

    Attributes:
        run: the run that trained it.
        preprocessing: the transform of its input.
        origin: the checkpoint, method and architecture, as results and files record them.
    """

    method: Method
    run: SavedRun
    preprocessing: Preprocessing
    origin: Record

    @property
    def image_size(self) -> int:
        """The side of its input in pixels."""
        return self.preprocessing.size

    def refuse_unused_flags(self, *image_sizes: tuple[int, int] | None, crops: bool) -> None:
        """Refuses flags of the transform without effect; the arguments are those of ``refuse_unused``.

        Raises:
            SSLToolError: naming the flag.
        """
        refuse_unused(self.run.preprocessing(self.image_size), self.preprocessing, *image_sizes, crops=crops)

    def with_finite_weights(self, layer: str = "backbone") -> Pretrained:
        """This network, whose outputs of ``layer`` are used. They may be finite although a weight or a buffer that they
        depend on is not: an infinite variance in a batch norm gives 0.

        Raises:
            SSLToolError: if such a weight or buffer is NaN or infinite; the message names the first.
        """
        part = layer.split(".")[0]
        parts = LAYERS[: LAYERS.index(part) + 1] if part in LAYERS else (part,)
        for name, values in self.method.state_dict().items():
            if name.split(".")[0] in parts and values.is_floating_point() and not all_finite(values):
                raise SSLToolError(
                    f"{self.origin['checkpoint']}: {name} has NaN or infinite values, so the training of the network "
                    "diverged; use an earlier checkpoint"
                )
        return self


@dataclass
class _Source:
    """What ``--pretrained`` names. ``weights`` and ``hash`` (of the file) are None for an untrained network, ``epoch``
    is None if it is unknown; ``revision`` is the commit of a repository of the Hugging Face hub."""

    run: SavedRun
    weights: dict[str, torch.Tensor] | None
    epoch: int | None
    hash: str | None
    revision: str | None = None


def load_pretrained(
    settings: NetworkSettings, device: torch.device, *, seed: int | None = None, ranks: bool = False
) -> Pretrained:
    """Loads the network of ``--pretrained``, or with ``--random`` an untrained one of the same architecture.

    From another program's checkpoint, only the backbone is loaded, into a ``Method`` that cannot be trained; stderr
    reports what was found in the file.

    Args:
        seed: the seed of untrained weights; by default the run's.
        ranks: whether the stage supports several processes.

    Raises:
        UsageError: if ``--pretrained`` or the architecture is missing or unknown.
        SSLToolError: if the checkpoint is missing, unreadable, or contradicts the given architecture or stem; or if
            the stage supports one process only and runs under torchrun.
    """
    if distributed.under_torchrun() and not ranks:
        raise SSLToolError(f"this stage runs in one process; start it without torchrun, or {one_process()}")
    source = _source(settings, seed)
    run = source.run
    remedy = f"these are not the weights of {run.backbone.arch}"
    with found_in(settings.pretrained):
        if source.weights is not None:  # before the memory is allocated that the file asks for
            check_weights(outline_method(run), source.weights, settings.pretrained, remedy)
        method = build_method(run if seed is None else run.updated(seed=seed))
    untrained = settings.random or source.weights is None
    if source.weights is not None and not settings.random:
        load_weights(method, source.weights, settings.pretrained, remedy)
    if settings.momentum_teacher:
        method = _teacher(method, settings.pretrained)
    preprocessing = run.preprocessing(settings.image_size).with_settings(vars(settings))
    for note in preprocessing.notes():
        distributed.rank_zero_info(note)
    check_size(method.backbone, preprocessing.size)
    is_one_of_several = settings.momentum_teacher or settings.key is not None
    digest = None if is_one_of_several else source.hash  # the accuracy of a teacher is not that of its student
    origin = {
        "checkpoint": settings.pretrained,
        "checkpoint_hash": digest or weights_hash(method.backbone.state_dict()),
        "random": untrained,
        PROGRAM: run.program,
        "method": run.method_name,
        "arch": run.backbone.arch,
        "stem": run.backbone.stem,
        "strategy": run.schedule.strategy if run.schedule else None,
        "epoch": 0 if untrained else source.epoch,
        "image_size": preprocessing.size,
        "preprocessing": preprocessing.record(),
    }
    origin |= {"momentum_teacher": True} if settings.momentum_teacher else {}
    origin |= {"key": settings.key} if settings.key is not None else {}
    origin |= {} if source.revision is None else {"revision": source.revision}
    return Pretrained(method.to(device).eval(), run, preprocessing, origin)


def _teacher(method: Method, path: str | None) -> Method:
    """The momentum teacher of ``method``."""
    teacher = teacher_network(method)
    if teacher is None:
        raise SSLToolError(f"--momentum-teacher: the method of {path} has no momentum teacher; leave it out")
    return teacher


def _source(settings: NetworkSettings, seed: int | None) -> _Source:
    name = settings.pretrained
    if name is None:
        raise UsageError("no checkpoint is given; add --pretrained FILE")
    if name == RANDOM:
        return _untrained(settings, seed)
    if name.startswith(TIMM):
        return _published_by_timm(name, settings.arch, settings.stem)
    if name.startswith(HUB):
        published = hub_folder(name)
        read = _read(str(published.path), settings.arch, settings.stem)
        return dataclasses.replace(read, revision=published.revision)
    if not name.startswith(PUBLISHED):
        return _read(name, settings.arch, settings.stem, settings.key)
    arch = _named_architecture(settings)
    return _read(str(published_weights(arch, name.removeprefix(PUBLISHED))), arch, settings.stem)


def _read(path: str, arch: str | None, stem: str | None, key: str | None = None) -> _Source:
    folder = find_model_folder(path)
    if folder is None and not Path(path).is_dir():
        check_file(path)  # the tensors are mapped into memory
    checkpoint, foreign = read_checkpoint(path, arch=arch, stem=stem, key=key)
    if foreign is not None:
        distributed.rank_zero_info(f"reading {path}: {foreign}")
    epoch = checkpoint.epoch if foreign is None else foreign.epoch
    digest = file_hash(path) if folder is None else folder_hash(folder)
    return _Source(SavedRun.read(checkpoint.config, path), checkpoint.state_dict, epoch, digest)


def _published_by_timm(name: str, arch: str | None, stem: str | None) -> _Source:
    published, found = published_timm(name)
    check_given(name, found.spec.arch, arch, stem)
    foreign = ForeignBackbone.named(found)
    distributed.rank_zero_info(f"reading {name} from {published.path}: {foreign}")
    checkpoint = backbone_checkpoint(foreign)
    run = SavedRun.read(checkpoint.config, name)
    return _Source(run, checkpoint.state_dict, None, file_hash(published.path), published.revision)


def _untrained(settings: NetworkSettings, seed: int | None) -> _Source:
    arch = _named_architecture(settings)
    size = settings.image_size or family_of(arch).own_size(arch)
    if size is None:
        own = open_dataset(settings, "val").own_size if settings.data is None else None
        size = own or DEFAULT_SIZE
    backbone = BackboneSpec(arch, resolve_stem(arch, settings.stem or "auto", size), size)
    run = SavedRun.of_backbone(backbone, method=UNTRAINED, program=SSLTOOL)
    if seed is None:
        seed = getattr(settings, "seed", PretrainConfig.seed)
    return _Source(run.updated(seed=seed), None, 0, None)


def _named_architecture(settings: NetworkSettings) -> str:
    if settings.arch is None:
        raise UsageError(f"--pretrained {settings.pretrained} needs the architecture: add -a NAME")
    return settings.arch


def default_run_name(stage: str, settings: NetworkSettings) -> str:
    """The default name of a stage's run: the stage, and the folder of the checkpoint or the kind of network."""
    source = str(settings.pretrained)
    if settings.random or source == RANDOM:
        return f"{stage}-{UNTRAINED}"
    if source.startswith((PUBLISHED, TIMM, HUB)):
        return f"{stage}-{source.replace(':', '-').replace('/', '-')}"
    path = Path(source).resolve()
    return f"{stage}-{(path if path.is_dir() else path.parent).name}"


def use_saved_dataset(settings: C, run: SavedRun, *, train: bool = True) -> C:
    """``settings`` with the dataset of the checkpoint's ``run``, unless they name one, and with its rules for pixels,
    unless they give others.

    A split in ``--dataset-type`` is kept. If the run used a part of the images, ``--idx-path`` becomes its file, and
    stderr says so; ``--all`` prevents it. The checkpoints of other programs do not contain the dataset; the bundled
    images are then used, and stderr says so.

    Args:
        train: whether the train images are read; the run's part of the images is one of them.

    Raises:
        SSLToolError: if ``--dataset-type`` is another dataset than the run's, and no folder is given; if the file of
            the run's part of the images is missing or has changed; or if ``--all`` or a flag of pixels has no effect.
    """
    used = _with_saved_images(_use_saved_pixels(settings, run), run, train)
    check_pixel_flags(settings, used)
    return used


def _with_saved_images(settings: C, run: SavedRun, train: bool) -> C:
    if settings.data is not None:
        return settings
    name, split, subset = parse_type(settings.dataset_type)
    if name == BUNDLED:
        return settings
    saved = run.data
    dataset = BUNDLED if saved is None else saved.dataset
    if name not in ("auto", dataset):
        raise SSLToolError(f"--dataset-type {settings.dataset_type} needs the folder of its images as DATA")
    if saved is None:
        if settings.all:
            raise SSLToolError(f"--all has no effect: {settings.pretrained} names no part of a dataset; leave it out")
        distributed.rank_zero_info(
            f"no DATA is given, and {settings.pretrained} names no dataset: using the bundled images"
        )
        return dataclasses.replace(settings, dataset_type=_spelled(dataset, split, subset))
    if name == "auto" and saved.detected and saved.folder is not None and detect(saved.folder) == dataset:
        dataset = name  # a layout that was detected is read a little differently from one that is given
    return dataclasses.replace(
        settings,
        data=saved.folder,
        dataset_type=_spelled(dataset, split, subset),
        small=settings.small or saved.small,
        unlabelled=settings.unlabelled or saved.unlabelled,
        image_column=settings.image_column or saved.image_column,
        label_column=settings.label_column or saved.label_column,
        idx_path=_subset_of(settings, saved) if train else settings.idx_path,
        all=False,
    )


def _spelled(name: str, split: str | None, subset: bool) -> str:
    return name + (f"_{split}" if split else "") + ("_subset" if subset else "")


def _subset_of(settings: NetworkSettings, saved: SavedData) -> str | None:
    """The file with the numbers of the images: the given one, or that of the run."""
    if settings.all and saved.subset is None:
        raise SSLToolError("--all has no effect: the run of the checkpoint used all images; leave it out")
    if settings.idx_path is not None or settings.all or saved.subset is None:
        return settings.idx_path
    advice = "give the file with --idx-path, or use all images with --all"
    if not Path(saved.subset).is_file():
        raise SSLToolError(f"the run used the images listed in {saved.subset}, which does not exist; {advice}")
    listed = read_numbers(saved.subset, None, "--idx-path")
    if saved.subset_hash not in (None, numbers_hash(listed)):
        raise SSLToolError(f"the run used the images listed in {saved.subset}, which has changed since; {advice}")
    distributed.rank_zero_info(
        f"using the {len(listed):,} train images of the run, those in {saved.subset}; --all uses all"
    )
    return saved.subset


def _use_saved_pixels(settings: C, run: SavedRun) -> C:
    """``settings`` with the rules for pixels of ``run``, where they give none. Runs of versions without these rules
    read raw pixels; other programs and untrained networks have no rules."""
    given = {name: value for name in run.pixels if (value := getattr(settings, name)) is not None}
    if run.stage is None or given.get("raw_pixels"):
        return settings
    saved = run.pixels
    if given:  # a background or a range excludes raw pixels
        saved = saved | {"raw_pixels": False}
    return dataclasses.replace(settings, **saved | given)
