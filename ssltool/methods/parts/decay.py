"""Parameters without weight decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def only_matrices_decay(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The optimiser's ``groups``, with biases and normalisation parameters in groups without weight decay."""
    split = []
    for group in groups:
        for decays in (True, False):
            params = [p for p in group["params"] if (p.ndim > 1) is decays]
            split.append(group | {"params": params} | ({} if decays else {"decays": False}))
    return split
