"""Runs a network that is being trained without changing it, its gradients, or any random number of the training."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrap(module: Any) -> Any:
    """The module inside the wrappers of DistributedDataParallel, DataParallel and ``torch.compile``; anything else
    unchanged."""
    while True:
        if isinstance(module, (DistributedDataParallel, DataParallel)):
            module = module.module
        elif isinstance(module, nn.Module) and "_orig_mod" in module._modules:  # a compiled module
            module = module._orig_mod
        else:
            return module


@contextlib.contextmanager
def same_randomness() -> Iterator[None]:
    """Restores the random states of Python, numpy and torch on all devices at the end of the ``with`` block."""
    python, array, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


@contextlib.contextmanager
def isolated(modules: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Context manager for forward passes of a network in training, as if they had not happened.

    ``modules`` and all other modules that are called are in eval mode; their training flags and buffers are restored
    one by one. There are no gradients, no autocast, no compilation, and the random states are restored. Replicas of
    DistributedDataParallel do not exchange buffers.
    """
    state = _State()
    with contextlib.ExitStack() as stack:
        stack.enter_context(same_randomness())
        stack.callback(state.restore)
        stack.callback(register_module_forward_pre_hook(state.isolate).remove)
        # Not inference mode: tensors that a module keeps from it could not be trained with.
        stack.enter_context(torch.no_grad())
        for kind in {device.type, "cpu"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if "torch._dynamo" in sys.modules:  # a compiled module ignores hooks that it was not compiled with
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for module in modules:
            for part in module.modules():
                state.isolate(part)
        yield


class _State:
    """What an isolated forward pass may change of modules: their training flags and buffers."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.training: list[nn.Module] = []
        self.synchronised: list[DistributedDataParallel] = []
        self.buffers: list[tuple[nn.Module, str, Tensor, int, Tensor]] = []

    def isolate(self, module: nn.Module, _: Any = None) -> None:
        """Sets the flags of a module, without ``eval``, which some override, and copies its buffers."""
        if id(module) in self.seen:
            return
        self.seen.add(id(module))
        if module.training:
            self.training.append(module)
            module.training = False
        if isinstance(module, DistributedDataParallel) and module.require_forward_param_sync:
            self.synchronised.append(module)
            module.require_forward_param_sync = False
        for name, buffer in module._buffers.items():
            if buffer is not None:
                self.buffers.append((module, name, buffer, buffer._version, buffer.clone()))

    def restore(self) -> None:
        for module in self.training:
            module.training = True
        for replica in self.synchronised:
            replica.require_forward_param_sync = True
        with torch.no_grad():
            for module, name, buffer, version, copy in self.buffers:
                if buffer._version != version:
                    buffer.copy_(copy)
                module._buffers[name] = buffer
