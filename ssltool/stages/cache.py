"""The cache stage: writes decoded, resized images of one or both splits."""

from __future__ import annotations

import dataclasses
import os

from ssltool.config import CacheConfig, DataSettings, SourceSettings
from ssltool.data.cached_images import cache_path, check_labels
from ssltool.data.detection import splits_of
from ssltool.data.found import announce, record_of
from ssltool.data.images import open_dataset
from ssltool.data.listing import CORRUPT
from ssltool.settings import Record


def run(config: CacheConfig) -> list[Record]:
    """Writes the files that the folder lacks.

    Returns:
        The path, the number of images and of corrupt ones, and the size of the file of each split.

    Raises:
        UsageError: for settings that contradict each other.
        SSLToolError: for images that cannot be read or decoded, or a cache of other images or labels; nothing is
            half-written.
        Interrupted: after SIGTERM, SIGINT or SIGUSR1; another call with the same settings continues.
    """
    config.check()
    folder = str(config.out)
    of_source = {f.name: getattr(config, f.name) for f in dataclasses.fields(SourceSettings)}
    settings = DataSettings(**of_source, cache=folder, cache_size=config.size)
    written = []
    for split in splits_of(config.dataset_type, config.split):
        images = open_dataset(settings, split)
        announce(images)
        path = cache_path(folder, split)
        check_labels(path, images)
        written.append(
            {
                "path": str(path),
                "split": split,
                "images": len(images),
                "corrupt": len(images.left_out.get(CORRUPT, ())),
                "bytes": os.path.getsize(path),
                "found": record_of(images),
            }
        )
    return written
