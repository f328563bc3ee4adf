"""Random seeds derived from (seed, epoch, step, ...), independent of previous random numbers."""

from __future__ import annotations

import enum
import hashlib

import torch


class Stream(enum.IntEnum):
    """Last number of a derived seed. Views of a step use (seed, epoch, step) without a stream."""

    MODEL = 1  # random numbers of the model in a step
    WHITENING = 2  # split of a batch in W-MSE
    CLUSTERS = 3  # initial centroids of DeepCluster
    SUPPORT = 4  # selection of the labelled images, and their samples per step
    EPOCH_START = 5  # views before the first step of an epoch
    SUPPORT_VIEWS = 6  # views of the labelled images
    SAVED_VIEWS = 7  # views of save-reprs, and sampled images
    MONITOR = 8  # images of the collapse monitor
    HOLDOUT = 9  # holdout rows for model selection
    NEIGHBOURS = 10  # sampled neighbours in SCAN
    SAVED_PATCHES = 11  # sampled patches of save-reprs
    METRICS = 12  # random order of rows in metrics
    SLICES = 13  # random directions of slices in a step
    MASKS = 14  # masked patches
    REPLAY = 15  # images of the replay buffer
    ORDER = 16  # keyed permutations of the images


def derive(*numbers: int) -> int:
    """Derives a 63-bit seed from integers; different sequences give independent seeds."""
    text = ",".join(str(int(number)) for number in numbers)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator seeded by ``derive(*numbers)``."""
    return torch.Generator().manual_seed(derive(*numbers))
