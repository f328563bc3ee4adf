"""The small networks behind a backbone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import nn


def relu() -> nn.Module:
    """ReLU, in place."""
    return nn.ReLU(inplace=True)


def mlp(
    dims: list[int],
    *,
    hidden_bn: bool = True,
    last_bn: bool = False,
    last_bias: bool = True,
    activation: Callable[[], nn.Module] = relu,
) -> nn.Sequential:
    """Linear layers of widths ``dims``, each hidden one followed by BN and the activation.

    With ``hidden_bn`` a hidden layer has no bias of its own, which the BN would take away; ``last_bn`` ends on a BN
    without scale and shift.
    """
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(dims)):
        last = i == len(dims) - 2
        layers.append(nn.Linear(before, after, bias=last_bias if last else not hidden_bn))
        if not last:
            layers += [nn.BatchNorm1d(after)] if hidden_bn else []
            layers.append(activation())
        elif last_bn:
            layers.append(nn.BatchNorm1d(after, affine=False))
    return nn.Sequential(*layers)
