"""What the metadata of representations must be."""

from __future__ import annotations

from typing import Any

from ssltool.data.preprocessing import PREPROCESSING
from ssltool.files.misfit import Misfit, describe
from ssltool.files.schema import Check, Sizes, boolean, integer, listing, mapping, nested, optional, text

COUNT = optional(integer(1, 2**40))


def _shard(value: Any, sizes: Sizes) -> list[int]:
    rank, world = listing(integer(0, 2**31), 2, what="[rank, number of ranks]")(value, sizes)
    if rank >= world:
        raise Misfit(describe(rank), f"a rank below the number of ranks, {world}", 0)
    return [rank, world]


SHARD = Check("[rank, number of ranks]", _shard)

META = mapping(
    optional={
        **dict.fromkeys(("checkpoint", "checkpoint_hash", "program", "method", "arch", "stem"), optional(text())),
        **dict.fromkeys(("strategy", "dataset", "split", "layer", "tokens", "pool"), optional(text())),
        **dict.fromkeys(("transform", "precision", "fingerprint", "data", "key"), optional(text())),
        **dict.fromkeys(("epoch", "seed"), optional(integer(0))),
        **dict.fromkeys(("image_size", "directions", "places", "views", "sample", "sample_patches"), COUNT),
        **dict.fromkeys(("random", "momentum_teacher"), optional(boolean())),
        "preprocessing": optional(PREPROCESSING),
        "classes": optional(listing(text(), what="a list of names")),
        "grid": optional(listing(integer(1, 2**20), 2, what="[rows, columns]")),
        "kinds": optional(listing(text(), what="a list of names")),
        "shard": optional(SHARD),
        "config": optional(mapping(other=nested())),
        "found": optional(mapping(optional={"why_unlabelled": optional(text())}, other=nested())),
    },
    other=nested(),
    what="a dict of metadata",
)
"""The keys that this program reads; other keys may hold any plain values."""
