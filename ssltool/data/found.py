"""What was found in the folders of images, as commands print it and as results and files record it."""

from __future__ import annotations

from ssltool.data.images import ImageSet
from ssltool.data.listing import skipped_text
from ssltool.settings import Record
from ssltool.training.distributed import rank_zero_info

NAMED = 5
"""Paths that are named for each reason in a record."""


def record_of(images: ImageSet) -> Record:
    """What was found: layout, split, number of images, of classes and of images without a label, and the fingerprint;
    ``skipped`` has the number and the first names of what was left out, by reason; ``notes`` say how the folder was
    read; ``why_unlabelled`` is empty if some images have labels."""
    return {
        "layout": images.name,
        "split": images.split,
        "images": len(images),
        "classes": len(images.classes),
        "unlabelled": int((images.labels < 0).sum()),
        "skipped": {
            reason: {"count": len(paths), "first": list(paths[:NAMED])} for reason, paths in images.left_out.items()
        },
        "notes": list(images.notes),
        "why_unlabelled": images.why_unlabelled,
        "fingerprint": images.fingerprint,
    }


def announce(*opened: ImageSet) -> None:
    """Prints what was found on stderr, on rank 0."""
    for images in opened:
        rank_zero_info(images.describe())
        if images.left_out:
            rank_zero_info(f"skipped {skipped_text(images.left_out)}")
        for note in images.notes:
            rank_zero_info(f"note: {note}")
