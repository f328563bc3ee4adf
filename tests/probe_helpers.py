"""Rows that the tests of the probe learn from."""

from __future__ import annotations

import torch


def clouds(n: int, *, names=(0, 1, 2), d: int = 6, spread: float = 0.7, seed: int = 0):
    """``n`` rows (n, d) around one centre for each class in ``names``, and their labels: the classes overlap."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(len(names), d, generator=torch.Generator().manual_seed(99))
    places = torch.arange(n) % len(names)
    return centres[places] + spread * torch.randn(n, d, generator=generator), torch.tensor(names)[places]
