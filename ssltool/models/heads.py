"""Projectors and predictors: the small networks after a backbone."""

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
    last_affine: bool = False,
    last_bias: bool = True,
    activation: Callable[[], nn.Module] = relu,
) -> nn.Sequential:
    """A multilayer perceptron with widths ``dims``; each hidden layer is followed by batch norm and the activation.

    Args:
        hidden_bn: batch norm after hidden layers, which then have no bias, since batch norm would cancel it.
        last_bn: batch norm after the last layer.
        last_affine: whether that batch norm has scale and shift.
        last_bias: whether the last layer has a bias.
    """
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(dims)):
        last = i == len(dims) - 2
        layers.append(nn.Linear(before, after, bias=last_bias if last else not hidden_bn))
        if not last:
            layers += [nn.BatchNorm1d(after)] if hidden_bn else []
            layers.append(activation())
        elif last_bn:
            layers.append(nn.BatchNorm1d(after, affine=last_affine))
    return nn.Sequential(*layers)
