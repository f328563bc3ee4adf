"""Resuming from a checkpoint: finding it, and checking that the settings match."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.load import Pretrained
from ssltool.checkpoints.saved_run import EARLIER, SavedRun
from ssltool.config import NetworkSettings, PretrainConfig, fixed_settings
from ssltool.data import views
from ssltool.data.images import ImageSet
from ssltool.data.loader import BATCHED_SIZE
from ssltool.data.manifest import Manifest
from ssltool.errors import SSLToolError, counted
from ssltool.files.integrity import DamagedFile
from ssltool.files.misfit import shown
from ssltool.files.reading import require
from ssltool.methods import method_class
from ssltool.methods.options import MethodOptions
from ssltool.models.arch_name import file_name
from ssltool.runs.folder import IMAGES, NEWEST, VAL_IMAGES, RunFolder
from ssltool.runs.run_names import changed_settings, run_name
from ssltool.runs.run_paths import run_path
from ssltool.settings import Settings, defaults_of, flag
from ssltool.training.distributed import rank_zero_info

CHECKPOINT = "checkpoint for --resume"
"""What a missing file is in messages."""

WITHIN_EPOCH = ("Data strategy", "Views")
"""Sections of settings that may change between epochs, as in the paper's hybrid strategy, but not within one."""

DERIVED_SETTINGS = {
    "dataset": "the dataset",
    "n_images": "the number of images",
    "index_hash": "the hash of their numbers",
    "labels_hash": "the hash of their labels",
    "second_hash": "the hash of the teacher",
    "support_hash": "the hash of the labelled images' numbers",
    "order_hash": "the hash of the order",
    "start_hash": "the hash of the initial network",
    "neighbours_hash": "the hash of the neighbours",
}
"""Saved settings that are derived from files and data instead of flags, with their names in messages."""


@dataclass(frozen=True)
class Resumed:
    """The checkpoint that a run resumes from, its file, and what is to be said about the choice, a line each."""

    path: Path
    checkpoint: Checkpoint
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Start:
    """The folder of a run, and the checkpoint that it resumes from and its file, or None."""

    folder: RunFolder
    path: Path | None
    checkpoint: Checkpoint | None


def pretrain_name(config: PretrainConfig) -> str:
    """The default name of a run: method, architecture, strategy, and the settings that differ from the defaults."""
    return run_name(_main(config), config)


def _main(config: PretrainConfig) -> dict[str, str]:
    return {"method": config.method, "arch": file_name(config.arch), "strategy": config.strategy}


def pretrain_folder(config: PretrainConfig) -> RunFolder:
    """The run folder of ``config``.

    Earlier versions did not name the differing settings. ``--resume auto`` continues a run of theirs with the same.
    """
    folder = RunFolder(run_path(config, pretrain_name(config)))
    if config.resume == "auto" and not folder.newest.exists():
        earlier = RunFolder(run_path(config, "-".join(_main(config).values())))
        if earlier.newest.exists() and _has_settings(earlier.read_config(), config):
            return earlier
    return folder


def _has_settings(saved: Settings, config: PretrainConfig) -> bool:
    """Whether a saved run has the settings that ``config`` gives, and the defaults of the others that do not depend on
    the data."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        compared = value not in (None, "auto") and f.metadata["fixed"]
        if compared and _as_saved(saved.get(f.name, value)) != _as_saved(value):
            return False
    given = changed_settings(config, _main(config))
    options = saved.get("method_options") or {}
    return all(str(options[name]).lower() == str(value).lower() for name, value in given.items() if name in options)


def find_start(config: PretrainConfig, run: SavedRun, folder: RunFolder) -> Start:
    """Finds where the run of ``config`` in ``folder`` starts, without writing anything. ``run`` has the resolved
    settings; its images are those of the checkpoint, as ``check_images`` has found.

    Raises:
        SSLToolError: if the folder contains another run, or the checkpoint is missing, unreadable or incompatible.
    """
    found = find_resumed(config)
    path = None if found is None else found.path
    folder.refuse_if_taken(overwrite=config.overwrite, resume=config.resume, resumed_from=path)
    if found is None:
        return Start(folder, None, None)
    for note in found.notes:
        rank_zero_info(note)
    check_compatible(found.checkpoint, run, found.path)
    return Start(folder, found.path, found.checkpoint)


def find_resumed(config: PretrainConfig) -> Resumed | None:
    """The checkpoint that the run of ``config`` resumes from; None if it starts anew.

    Of a folder, it is the newest undamaged one. A run that began with ``--resume FILE`` of another folder, as a hybrid
    run does, continues with its own checkpoints if it has any, so that its command may be repeated.

    Raises:
        SSLToolError: if the named checkpoint does not exist or cannot be loaded, or if all those of a folder are
            damaged.
    """
    if config.resume is None:
        return None
    folder = pretrain_folder(config)
    if config.resume == "auto":
        return _newest_good(folder)
    named = Path(config.resume)
    if os.path.isdir(named):
        found = _newest_good(RunFolder(named))
    else:
        require(named, CHECKPOINT)
        found = Resumed(named, Checkpoint.load(named))
    if found is None:
        raise SSLToolError(f"no such {CHECKPOINT}: {named / NEWEST}")
    restarts = (
        config.overwrite or config.start_epoch is not None or found.path.parent.resolve() == folder.path.resolve()
    )
    return found if restarts else _continued(found, folder) or found


def _newest_good(folder: RunFolder) -> Resumed | None:
    """The newest checkpoint of ``folder`` that is not damaged; None if there is none at all.

    Raises:
        SSLToolError: if all are damaged, or the newest undamaged one cannot be used for another reason.
    """
    damaged: list[str] = []
    for path in (folder.newest, *reversed(folder.kept().values())):
        if not path.exists():
            continue
        try:
            checkpoint = Checkpoint.load(path)
        except DamagedFile as error:
            damaged.append(str(error).rpartition("; ")[0])  # without what to do
            continue
        return Resumed(path, checkpoint, tuple(f"warning: {found}; using {path}" for found in damaged))
    if damaged:
        others = f", and {counted(len(damaged) - 1, 'earlier checkpoint')} too" if damaged[1:] else ""
        raise SSLToolError(
            f"{damaged[0]}{others}; restore a checkpoint, or start again with --overwrite and without --resume"
        )
    return None


def _continued(start: Resumed, folder: RunFolder) -> Resumed | None:
    """The newest checkpoint of ``folder`` if its run began with ``start``; None if not, or if there is none.

    The run has the records of all epochs, so it then has those of ``start``.
    """
    own = _newest_good(folder)
    if own is None:
        return None
    before = start.checkpoint.metrics["epochs"]
    began = own.checkpoint.metrics["epochs"][: len(before)] == before and own.checkpoint.step >= start.checkpoint.step
    note = f"{folder.path} continues {start.path} already"
    return dataclasses.replace(own, notes=(*own.notes, note)) if began else None


def find_file(resume: str | None, newest: Path) -> Path | None:
    """The checkpoint that ``--resume`` names.

    ``auto`` is the run's ``newest`` checkpoint, or None if there is none. A folder is its file of the same name.

    Raises:
        SSLToolError: if the named checkpoint does not exist.
    """
    if resume is None:
        return None
    if resume == "auto":
        return newest if newest.exists() else None
    path = Path(resume)
    path = path / newest.name if os.path.isdir(path) else path
    require(path, CHECKPOINT)
    return path


def changed_images(saved: Settings, folder: Path, train: ImageSet, val: ImageSet | None = None) -> str | None:
    """How the images that a run reads differ from those of the run in ``folder`` with the settings ``saved``; None if
    they are the same.

    Only the images that the run uses are compared, if the folder has their lists. Runs of earlier versions lack a
    fingerprint; a note on stderr says which images are not compared.

    Raises:
        SSLToolError: if a list of images cannot be read.
    """
    sets = [("fingerprint", IMAGES, train), *([("val_fingerprint", VAL_IMAGES, val)] if val is not None else [])]
    compared = {key for key, _, _ in sets if saved.get(key) is not None}
    if len(compared) < len(sets):
        what = "its val images are not compared" if compared else "only the number of its images is compared"
        rank_zero_info(f"note: {folder} was written by an earlier version; {what}")
    for key, name, images in sets:
        if key not in compared or saved[key] == images.fingerprint:
            continue
        file, difference = folder / name, "they have another fingerprint"
        found = Manifest.load(file).difference(images) if file.is_file() else difference
        if found is not None:
            return found if images is train else f"of the val images, {found}"
    return None


def note_changed_images(network: Pretrained, given: NetworkSettings, images: ImageSet) -> None:
    """Prints a note if the train ``images``, which a stage takes from the network's run because ``given`` names none,
    are not those that the network was trained on.

    Raises:
        SSLToolError: if the run's list of images cannot be read.
    """
    saved = network.run.settings
    if (
        given.data is not None
        or saved.get("stream")
        or saved.get("fingerprint") is None
        or saved.get("dataset") != images.name
    ):
        return
    if given.idx_path is None and not given.all:
        changed = changed_images(saved, Path(network.origin["checkpoint"]).parent, images)
    else:  # the list has the images that the run used, and these are others
        changed = None if saved["fingerprint"] == images.fingerprint else "they have another fingerprint"
    if changed is not None:
        rank_zero_info(
            f"note: the images of the run changed after {network.origin['checkpoint']} was trained: {changed}"
        )


def check_images(saved: Settings, path: Path, train: ImageSet, val: ImageSet | None = None) -> None:
    """Checks that a run on these images can resume from the file ``path`` with the settings ``saved``.

    It comes before all checks that depend on the number of images, so that the image that has changed is what is named.

    Raises:
        SSLToolError: if an image differs; the message names the first.
    """
    if saved.get("dataset", train.name) != train.name:
        return  # ``check_compatible`` gives both names
    changed = changed_images(saved, path.parent, train, val)
    if changed is not None:
        raise SSLToolError(
            f"cannot resume {path}: the images are not those of its run: {changed}; restore them, or start a new run"
        )


def check_compatible(
    checkpoint: Checkpoint,
    run: SavedRun,
    path: Path,
    *,
    more: Sequence[str] = (),
    flag_name: Callable[[str], str] = flag,
) -> None:
    """Checks that ``run`` can resume from ``checkpoint``; ``check_images`` compares the images.

    The data strategy may change at the end of an epoch. If it does not change, the order and the chunks must be equal.
    ``more`` names settings that must be equal in addition to those of pretraining; ``flag_name`` is that of
    ``differences``. Settings that are newer than the checkpoint had their default, or the value in ``EARLIER``.

    Raises:
        SSLToolError: if settings differ that must be equal; the message gives each with both values.
    """
    old, new = defaults_of(PretrainConfig) | EARLIER | checkpoint.config, run.settings
    names = [*fixed_settings(PretrainConfig), *DERIVED_SETTINGS, *more]
    names.remove("order_hash")
    if "labels_hash" not in old:  # an earlier version
        names.remove("labels_hash")
    if old["strategy"] == new["strategy"]:
        names += ["chunk_size", "n_rounds", "replay_size", "replay_rule", "repeat_batch", "order_hash"]
    reason = "would break its schedule or its weights"
    differing = differences(names, old, new, flag_name)
    if old["method"] == new["method"]:
        differing += _differing_options(old, new)
    if not differing and checkpoint.metrics["epoch_step"]:
        fields = dataclasses.fields(PretrainConfig)
        names = [f.name for f in fields if f.metadata["section"] in WITHIN_EPOCH]
        names.remove("incremental_idx_path")  # its contents are compared by order_hash
        reason = f"cannot change within epoch {checkpoint.epoch + 1}, only between epochs"
        differing = differences(names, old, new)
    if differing:
        raise SSLToolError(f"cannot resume {path}: {'; '.join(differing)}. This {reason}; use the checkpoint's values")


def differences(names: list[str], old: Settings, new: Settings, flag_name: Callable[[str], str] = flag) -> list[str]:
    """Describes the settings among ``names`` that differ, with both values.

    ``flag_name`` maps the name of a setting to its name in messages, by default its flag.
    """
    values = [(name, _as_saved(old.get(name)), _as_saved(new.get(name))) for name in names]
    return [
        f"{DERIVED_SETTINGS.get(name, flag_name(name))} was {shown(a)}, is now {shown(b)}"
        for name, a, b in values
        if a != b
    ]


def _as_saved(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _differing_options(old: Settings, new: Settings) -> list[str]:
    """The method's options that differ. Files are compared by the hashes in ``DERIVED_SETTINGS`` instead."""
    options = method_class(new["method"]).Options
    names = [f.name for f in dataclasses.fields(options) if f.metadata["metavar"] != "FILE"]
    saved = defaults_of(options) | options.completed(old["method_options"])
    return differences(names, saved, new["method_options"], MethodOptions.flag_name)


def say_if_views_differ(checkpoint: Checkpoint, images: ImageSet, size: int) -> None:
    """Says so if a version that made its views otherwise began the run, on ``images`` with views of ``size``."""
    is_batched = images.images is not None and max(*images.images.shape[-2:], size) <= BATCHED_SIZE
    if checkpoint.config.get("views_version", 1) < views.VERSION and not is_batched:
        rank_zero_info(
            "note: the run was begun by an earlier version; on a CPU its views are made in 8 bits from here on, which "
            "rounds them otherwise"
        )
