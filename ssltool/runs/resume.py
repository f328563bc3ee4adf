"""Going on from a checkpoint: finding it, and refusing settings that would break its schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.config import PretrainConfig, fixed_settings
from ssltool.errors import SSLToolError
from ssltool.files import Settings
from ssltool.methods import method_class
from ssltool.methods.options import MethodOptions
from ssltool.runs.folder import RunFolder, run_path
from ssltool.settings import flag

# Which images a step sees and how: may change between epochs (the paper's hybrid), not within one.
WITHIN_EPOCH = ("Data strategy", "Views")

DERIVED_SETTINGS = {
    "dataset": "the dataset",
    "n_images": "the number of images",
    "index_hash": "the hash of their numbers",
    "second_hash": "the hash of the trained network to learn from",
    "support_hash": "the hash of the labelled images' numbers",
    "order_hash": "the hash of the order",
    "start_hash": "the hash of the network to start from",
    "neighbours_hash": "the hash of the neighbours",
}
"""What saved settings hold beside flags, and how it is called."""


@dataclass(frozen=True)
class Start:
    """Where a run writes, and the checkpoint that it goes on from, if any, with its file."""

    folder: RunFolder
    path: Path | None
    checkpoint: Checkpoint | None


def find_start(config: PretrainConfig, run: SavedRun) -> Start:
    """Where the run of ``config`` starts; touches nothing. ``run`` has its resolved settings.

    Raises:
        SSLToolError: if its folder holds another run, the checkpoint is missing or unreadable, or does not fit.
    """
    folder = RunFolder(run_path(config, f"{config.method}-{config.arch}-{config.strategy}"))
    path = find_file(config.resume, folder.newest)
    folder.refuse_if_taken(overwrite=config.overwrite, resume=config.resume, resumed_from=path)
    if path is None:
        return Start(folder, None, None)
    checkpoint = Checkpoint.load(path)
    check_compatible(checkpoint, run, path)
    return Start(folder, path, checkpoint)


def find_file(resume: str | None, newest: Path) -> Path | None:
    """The file that ``--resume`` means: ``auto`` is the run's ``newest`` if there is one, a folder stands for its file
    of that name.

    Raises:
        SSLToolError: if it is named and not there.
    """
    if resume is None:
        return None
    if resume == "auto":
        return newest if newest.exists() else None
    path = Path(resume)
    path = path / newest.name if path.is_dir() else path
    if not path.is_file():
        raise SSLToolError(f"--resume: no such checkpoint: {path}")
    return path


def check_compatible(checkpoint: Checkpoint, run: SavedRun, path: Path, *, more: Sequence[str] = ()) -> None:
    """Refuses to go on from ``checkpoint`` with a ``run`` that breaks its schedule.

    ``more`` names the settings that must agree beside those of pretraining. At the end
    of an epoch another data strategy may take over; the same strategy goes on with the same order and chunks.

    Raises:
        SSLToolError: naming each setting that differs, with both values.
    """
    old, new = checkpoint.config, run.settings
    names = [*fixed_settings(PretrainConfig), *DERIVED_SETTINGS, *more]
    names.remove("order_hash")
    if old["strategy"] == new["strategy"]:
        names += ["chunk_size", "n_rounds", "repeat_batch", "order_hash"]
    reason = "would break its schedule or its weights"
    differing = differences(names, old, new)
    if old["method"] == new["method"]:
        differing += _differing_options(old, new)
    if not differing and checkpoint.metrics["epoch_step"]:
        fields = dataclasses.fields(PretrainConfig)
        names = [f.name for f in fields if f.metadata["section"] in WITHIN_EPOCH]
        names.remove("incremental_idx_path")  # what counts is the order in it
        reason = f"cannot change in the middle of epoch {checkpoint.epoch + 1}, only at the end of one"
        differing = differences(names, old, new)
    if differing:
        raise SSLToolError(f"cannot resume {path}: {'; '.join(differing)}. This {reason}; give the checkpoint's values")


def differences(names: list[str], old: Settings, new: Settings, flag_name: Callable[[str], str] = flag) -> list[str]:
    """Which of the settings ``names`` differ, each with both values; ``flag_name`` turns a name into what is
    shown, by default its flag."""
    found = []
    for name in names:
        before, after = old.get(name), new.get(name)
        if before != after:
            found.append(f"{DERIVED_SETTINGS.get(name, flag_name(name))} was {before}, is now {after}")
    return found


def _differing_options(old: Settings, new: Settings) -> list[str]:
    """The method's options that differ. Files are compared by their contents, whose hashes are in ``DERIVED_SETTINGS``."""
    declared = {f.name: f for f in dataclasses.fields(method_class(new["method"]).Options)}
    names = [name for name, f in declared.items() if f.metadata["metavar"] != "FILE"]
    return differences(names, old["method_options"], new["method_options"], MethodOptions.flag_name)
