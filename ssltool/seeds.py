"""Randomness as a function of (seed, epoch, step, ...), never of history."""

from __future__ import annotations

import numpy as np
import torch


def derive(*numbers: int) -> int:
    """One 63-bit seed from any non-negative numbers; different numbers, or another order, give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator seeded by ``derive(*numbers)``."""
    return torch.Generator().manual_seed(derive(*numbers))
