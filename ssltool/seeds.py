"""Randomness as a function of (seed, epoch, step, ...), never of history."""

from __future__ import annotations

import hashlib

import torch


def derive(*numbers: int) -> int:
    """One 63-bit seed from any integers; different numbers, more of them, or another order give unrelated seeds."""
    text = ",".join(map(str, numbers))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator seeded by ``derive(*numbers)``."""
    return torch.Generator().manual_seed(derive(*numbers))
