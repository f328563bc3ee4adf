"""Which dataset DATA is: what ``--dataset-type`` says, or what the contents show."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssltool.config import SPLITS, DataSettings
from ssltool.data import archives, listing
from ssltool.data.layouts import LAYOUTS
from ssltool.errors import SSLToolError, UsageError, first_line, unknown


@contextmanager
def named_errors() -> Iterator[None]:
    """Errors of the file system as one line, such as those of a folder whose parent may not be read."""
    try:
        yield
    except OSError as error:
        found = f"{error.filename}: {error.strerror}" if error.filename else first_line(error)
        raise SSLToolError(f"cannot read {found}; name a folder that can be read as DATA") from error


def no_folder(folder: Path) -> SSLToolError:
    """The error for a folder of images that does not exist."""
    what = f"{folder} is a file, not a folder" if folder.exists() else f"no such folder: {folder}"
    is_pattern = not folder.exists() and not set("*?[").isdisjoint(str(folder))
    advice = "patterns are of tar files, and have braces: 'shards-{000..099}.tar'; or " if is_pattern else ""
    return SSLToolError(f"{what}; {advice}name the folder of the images as DATA")


def named_layout(data: str) -> str | None:
    """The layout whose dataset DATA names, as ``hf:NAME`` does; None if it is a file or a folder."""
    names = [name for name, layout in LAYOUTS.items() if layout.named]
    return next((name for name in names if LAYOUTS.load(name, "named")(data)), None)


def can_exist(data: str) -> bool:
    """Whether DATA names a dataset, or a file or folder that exists, which may be in an archive."""
    return named_layout(data) is not None or os.path.exists(data) or archives.entries(data) is not None


def location(data: str, name: str) -> Path:
    """Where the reader of the layout ``name`` finds the images: DATA, or the folder that an archive holds.

    Raises:
        SSLToolError: if DATA does not exist, may not be read, or is a file that the layout does not read.
    """
    folder, layout = Path(data), LAYOUTS[name]
    if layout.named is not None and LAYOUTS.load(name, "named")(data):
        return folder
    if layout.archives and archives.find(folder) is not None:
        return archives.root(folder)
    if not folder.is_dir() and not (layout.single_file and folder.is_file()):
        raise no_folder(folder)
    _check_permission(folder)
    return folder


def _check_permission(folder: Path) -> None:
    """Raises an ``SSLToolError`` that names the folder, not one of the files that are looked for in it."""
    if not os.access(folder, os.R_OK | (os.X_OK if folder.is_dir() else 0)):
        raise listing.unreadable_folder(folder)


def layout_of(settings: DataSettings) -> str:
    """The name of the layout that the settings give, or that is detected."""
    name, _, _ = parse_type(settings.dataset_type)
    return detect(settings.data) if name == "auto" else name


def is_detected(settings: DataSettings) -> bool:
    """Whether the layout of the folder is detected, not given by ``--dataset-type``."""
    return parse_type(settings.dataset_type)[0] == "auto"


def parse_type(dataset_type: str) -> tuple[str, str | None, bool]:
    """Parses ``--dataset-type``, such as ``imagenet_val_subset``.

    Returns:
        The dataset type, the split or None, and whether it is a subset, which needs ``--idx-path``.

    Raises:
        UsageError: for an unknown name.
    """
    text = dataset_type.removesuffix("_subset")
    subset = text != dataset_type
    aliases = {alias: (name, own) for name, layout in LAYOUTS.items() for alias, own in layout.aliases.items()}
    if text in aliases:
        return *aliases[text], subset
    base, _, end = text.rpartition("_")
    names = {name.replace("_", "-"): name for name in ("auto", *LAYOUTS)}
    for written, split in ((text, None), (base, end)):
        name = names.get(written.replace("_", "-"))
        if name is not None and split in (None, *SPLITS):
            return name, split, subset
    raise unknown(LAYOUTS.kind, dataset_type, [*names.values(), *aliases, "imagenet_train_subset"])


def splits_of(dataset_type: str, split: str | None) -> list[str]:
    """The splits that ``--split`` selects, by default the one that ``--dataset-type`` names, else train.

    Raises:
        UsageError: if the two contradict each other.
    """
    named = parse_type(dataset_type)[1]
    if named is not None and split not in (None, named):
        raise UsageError(
            f"--dataset-type {dataset_type} and --split {split} contradict each other; leave one of them out"
        )
    return ["train", "val"] if split == "both" else [split or named or "train"]


@named_errors()
def detect(data: str | None) -> str:
    """Detects the dataset type of DATA from its contents; ``DatasetLayout`` describes the order of the checks."""
    if data is None:
        return "bundled"
    folder, layouts = Path(data), dict(LAYOUTS)
    if (named := named_layout(data)) is not None:
        return named
    for name in [name for name, layout in layouts.items() if layout.single_file and folder.is_file()]:
        if LAYOUTS.load(name, "recogniser")(folder):
            return name
    if archives.find(folder) is not None:
        folder, layouts = archives.root(folder), {name: one for name, one in layouts.items() if one.archives}
    elif not folder.is_dir():
        raise no_folder(folder)
    else:
        _check_permission(folder)
    for name, layout in layouts.items():
        if any((folder / file).exists() for file in layout.files):
            return name
    for name in sorted(layouts, key=lambda name: layouts[name].generic):
        if layouts[name].recogniser and LAYOUTS.load(name, "recogniser")(folder):
            return name
    return "images"


def has_split(settings: DataSettings, split: str) -> bool:
    """Whether DATA has images of the split."""
    name = layout_of(settings)
    layout = LAYOUTS[name]
    if split not in layout.splits or layout.has_split is None:
        return split in layout.splits
    return bool(LAYOUTS.load(name, "has_split")(location(str(settings.data), name), split))


def absolute(data: str | None) -> str | None:
    """DATA as a later stage finds it that runs in another folder; ``hf:NAME`` is one everywhere, unless NAME is a
    folder."""
    if data is None:
        return None
    prefix, name, split = "", data, ""
    if data.startswith("hf:"):
        prefix, name, split = data[:3], *data[3:].partition(":")[::2]
        if not os.path.isdir(name):
            return data
    return prefix + str(Path(name).resolve()) + (f":{split}" if split else "")
