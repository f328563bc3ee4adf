"""Randomness as a function of (seed, epoch, step, ...), never of history."""

from __future__ import annotations

import enum
import hashlib

import torch


class Stream(enum.IntEnum):
    """Last of the numbers that a seed is derived from, where the views of a step have (seed, epoch, step) alone."""

    MODEL = 1  # the model's own random numbers in a step
    WHITENING = 2  # W-MSE's parts of a batch
    CLUSTERS = 3  # DeepCluster's first centroids
    SUPPORT = 4  # which labelled images there are, and which of them a step sees
    EPOCH_START = 5  # what happens before an epoch's first step
    SUPPORT_VIEWS = 6  # the labelled images' views
    SAVED_VIEWS = 7  # the views of save-reprs, and which images it draws
    MONITOR = 8  # which images the collapse monitor looks at
    HOLDOUT = 9  # which labelled rows settings are chosen on
    NEIGHBOURS = 10  # with which of its neighbours SCAN compares an image


def derive(*numbers: int) -> int:
    """One 63-bit seed from any integers; different numbers, more of them, or another order give unrelated seeds."""
    text = ",".join(str(int(number)) for number in numbers)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator seeded by ``derive(*numbers)``."""
    return torch.Generator().manual_seed(derive(*numbers))
