"""Loads saved weights and optimizer states, after comparing their names and shapes with those in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from ssltool.files.schema import (
    Check,
    boolean,
    conform,
    either,
    integer,
    listing,
    mapping,
    nested,
    optional,
    real,
    sequence,
    tensor,
    text,
)

OTHER = "use the file of this run, or start the run again"
"""What to do about a state that belongs to something else."""


IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")
"""Settings of torch's optimizers that choose the kernels: those of the device, not those of the file. Kernels for all
parameters at once need states in the memory format of the parameters."""


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], file: object, remedy: str = OTHER) -> None:
    """Loads ``weights``, which come from ``file``, into ``module``.

    Raises:
        SSLToolError: if a name is missing or unknown, or a shape is another one.
    """
    check_weights(module, weights, file, remedy)
    state = OrderedDict(weights)
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]  # versions; some modules need them
    module.load_state_dict(state)


def check_weights(module: nn.Module, weights: Mapping[str, Tensor], file: object, remedy: str = OTHER) -> None:
    """Raises ``SSLToolError`` if the names or shapes of ``weights``, which come from ``file``, are not the module's."""
    schema = mapping({name: tensor(*held.shape) for name, held in module.state_dict().items()})
    conform({"state_dict": weights}, mapping({"state_dict": schema}), file, remedy=remedy)


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any], file: object) -> None:
    """Loads the ``state`` of an optimizer, which comes from ``file`` and may have been saved on another device.

    Raises:
        SSLToolError: if it is not the state of an optimizer of this kind with these parameters.
    """
    groups = optimizer.param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    first: Mapping[str, Any] = next(iter(state.get("state", {}).values()), {})
    states = {n: mapping({key: _slot(p, held) for key, held in first.items()}) for n, p in enumerate(parameters)}
    own = {name for name, value in optimizer.defaults.items() if type(value) is bool}  # torch adds those it lacks
    settings = []
    for group in groups:
        known = {name: check for name, check in _like(group).items() if name not in IMPLEMENTATION}
        needed = {name: check for name, check in known.items() if name not in own}
        needed |= {"params": listing(integer(), len(group["params"]))}
        settings.append(mapping(needed, {name: known[name] for name in own & known.keys()}, nested(tensors=True)))
    schema = mapping({"state": mapping(optional=states), "param_groups": sequence(settings)})
    conform({"optimizer": state}, mapping({"optimizer": schema}), file, remedy=OTHER)
    saved = zip(state["param_groups"], groups, strict=True)
    own_groups = [old | {name: own[name] for name in IMPLEMENTATION if name in own} for old, own in saved]
    optimizer.load_state_dict({**state, "param_groups": own_groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _slot(parameter: Tensor, first: Any) -> Check:
    """What an optimizer keeps for a parameter, if it keeps ``first`` for the first one: a tensor of the parameter's
    shape, or a number, such as that of its steps."""
    if isinstance(first, Tensor) and first.dim():
        return tensor(*parameter.shape)
    return optional(either(tensor(*parameter.shape), tensor(), real()))


def _like(values: Mapping[str, Any]) -> dict[str, Check]:
    """Checks of values of the same kinds as the settings of a parameter group."""
    kinds = {bool: boolean(), int: real(), float: real(), str: text()}
    checks = {name: kinds[type(value)] for name, value in values.items() if type(value) in kinds}
    pairs = {name: listing(real(), len(value)) for name, value in values.items() if isinstance(value, tuple)}
    return checks | pairs
