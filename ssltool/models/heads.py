"""The small networks behind a backbone."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def mlp(dims: list[int], *, last_bn: bool, last_bias: bool) -> nn.Sequential:
    """Linear layers of widths ``dims``, each hidden one followed by BN and ReLU and without a bias of its own.

    ``last_bn`` ends on a BN without scale and shift.
    """
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(dims)):
        last = i == len(dims) - 2
        layers.append(nn.Linear(before, after, bias=last and last_bias))
        if not last:
            layers += [nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
        elif last_bn:
            layers.append(nn.BatchNorm1d(after, affine=False))
    return nn.Sequential(*layers)
