"""The folder of a cache, which ``ssltool cache`` or ``--cache`` wrote, as a dataset of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssltool.config import SPLITS, DataSettings
from ssltool.data.cached_images import CACHE, cache_path, other_files, reduction
from ssltool.data.image_cache import CacheFile
from ssltool.data.images import ImageSet
from ssltool.errors import SSLToolError, first_names


def read(folder: Path, split: str, settings: DataSettings) -> ImageSet:
    """The images of a split, also those that were corrupt, so that all have their numbers. The files from which they
    were made are not needed."""
    path = cache_path(folder, split)
    if not path.exists():
        found = [other for other in SPLITS if cache_path(folder, other).exists()]
        raise SSLToolError(
            f"the cache {folder} has no split {split}; it has {', '.join(found)}; add it with ssltool cache DATA "
            f"-o {folder} --split {split}"
        )
    file = CacheFile.open(path)
    head = file.head
    if head["split"] != split:
        raise SSLToolError(f"{path} has the split {head['split']}; name it {head['split']}.cache")
    if settings.cache_size not in (None, file.rules.cache_size):
        raise SSLToolError(
            f"{path} has --cache-size {file.rules.cache_size}, not {settings.cache_size}; leave --cache-size out"
        )
    notes = [*head["notes"], f"a cache of {head['layout']}, {reduction(file)}"]
    if others := other_files(folder):
        notes.append(
            f"{folder} has files of a cache, which are read; {first_names(others, 3)} beside them are not; "
            "--dataset-type names another layout"
        )
    return ImageSet(
        CACHE,
        split,
        file.labels,
        np.arange(len(file.labels)),
        tuple(head["classes"]),
        notes=tuple(notes),
        why_unlabelled=head["why_unlabelled"],
        fingerprint=head["fingerprint"],
        files=file.files,
        digests=file.digests,
        rules=file.rules,
        cached=file.images,
    )


def has_split(folder: Path, split: str) -> bool:
    """Whether the split was cached."""
    return cache_path(folder, split).exists()
