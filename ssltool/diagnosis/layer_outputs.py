"""The outputs of layers of a network for a batch of images, as rows (N, d).

The layers are a chain, or they are inside a network whose forward pass is run with hooks.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ssltool.diagnosis.isolation import unwrap
from ssltool.errors import SSLToolError, counted, first_names

Layer = nn.Module | Callable[[Any], Any] | tuple[Any, Any]
"""A module, a function, or a pair of either and the key of its output: of a dict, a tuple, or an attribute."""

POOLED = {4: ("positions", (2, 3)), 3: ("tokens", (1,))}
"""What outputs with so many dimensions are averaged over, and these dimensions."""

KEEPS_RANK = (nn.Identity, nn.Dropout, nn.Flatten, nn.LayerNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm)
"""Modules that raise the rank of the outputs of a linear layer before them by at most one."""


@dataclass(frozen=True)
class _Part:
    """A layer: what is ``called``, without wrappers, and the ``key`` of its output, None for the output itself."""

    called: Any
    key: Any = None

    @classmethod
    def of(cls, name: str, layer: Layer) -> _Part:
        called, key = layer if isinstance(layer, tuple) and len(layer) == 2 else (layer, None)
        if not callable(called):
            raise SSLToolError(
                f"layer {name!r} is {_described(layer)}; give a module, a function, or (module, key of its output)"
            )
        return cls(unwrap(called), key)

    def modules(self) -> list[nn.Module]:
        return modules_of(self.called)


def modules_of(called: Any) -> list[nn.Module]:
    """The modules of which ``called`` is one, a method of one, or a function that refers to them."""
    if isinstance(called, nn.Module):
        return [called]
    if isinstance(called, functools.partial):
        return [module for part in (called.func, *called.args) for module in modules_of(part)]
    named = [getattr(called, "__self__", None)]
    if inspect.isfunction(called):
        seen = inspect.getclosurevars(called)
        named += [*seen.nonlocals.values(), *seen.globals.values()]
    return [unwrap(found) for found in named if isinstance(found, nn.Module)]


class LayerOutputs:
    """The outputs of ``layers`` for batches of images; ``said`` describes outputs that are averaged, by layer."""

    def __init__(self, layers: Mapping[str, Layer], forward: Callable[[Tensor], Any] | None = None) -> None:
        """Raises ``SSLToolError`` for layers that cannot be called, or without hooks, that cannot be observed."""
        if not layers or not all(isinstance(name, str) and name for name in layers):
            raise SSLToolError(f"layers is {_described(layers)}; give at least one name with its module")
        self.parts = {name: _Part.of(name, layer) for name, layer in layers.items()}
        self.forward = unwrap(forward)
        self.said: dict[str, str] = {}
        if forward is None:
            return
        if not callable(forward):
            raise SSLToolError(f"forward is {_described(forward)}; give the network, or a function that calls it")
        for name, part in self.parts.items():
            if not isinstance(part.called, nn.Module):
                raise SSLToolError(
                    f"layer {name!r} is {_described(part.called)}; with forward, each layer must be a module"
                )

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that are called, as far as they are known."""
        return [*modules_of(self.forward), *(module for part in self.parts.values() for module in part.modules())]

    def first_parameter(self) -> Tensor | None:
        """The first floating-point parameter, whose device and type the network's input has; None if there is none."""
        parameters = (parameter for module in self.modules for parameter in module.parameters())
        return next((parameter for parameter in parameters if parameter.is_floating_point()), None)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """The rows (N, d) float32 of each layer for ``images`` (N, 3, S, S).

        Raises:
            SSLToolError: for outputs that are not one row, map or sequence of tokens per image.
        """
        return self._chain(images) if self.forward is None else self._hooked(images)

    def bound(self, name: str) -> int | None:
        """The largest possible rank of the output of a layer: that of its last linear layer, None if that is not known.

        Normalisation and dropout after it are ignored. An activation after it may raise the rank.
        """
        return None if self.parts[name].key is not None else _bound(self.parts[name].called)

    def _chain(self, images: Tensor) -> dict[str, Tensor]:
        found, out = {}, images
        for name, part in self.parts.items():
            out = self._taken(name, part, part.called(out))
            found[name] = self._rows(name, out, len(images))  # a copy: the next layer may work in place
        return found

    def _hooked(self, images: Tensor) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {name: [] for name in self.parts}

        def keep(name: str, part: _Part) -> Callable[[Any, Any, Any], None]:
            return lambda module, given, out: found[name].append(
                self._rows(name, self._taken(name, part, out), len(images))
            )

        with contextlib.ExitStack() as stack:
            for name, part in self.parts.items():
                stack.callback(part.called.register_forward_hook(keep(name, part)).remove)
            self.forward(images)
        for name, rows in found.items():
            if len(rows) != 1:
                raise SSLToolError(
                    f"forward called layer {name!r} {counted(len(rows), 'time')} for one batch of images; it must call "
                    "each layer once"
                )
        return {name: rows[0] for name, rows in found.items()}

    def _taken(self, name: str, part: _Part, out: Any) -> Any:
        """The output at the key of a layer."""
        if part.key is None:
            return out
        try:
            return getattr(out, part.key) if _is_attribute(out, part.key) else out[part.key]
        except (KeyError, IndexError, TypeError) as error:
            raise SSLToolError(f"layer {name!r}: its output is {_described(out)}, without {part.key!r}") from error

    def _rows(self, name: str, out: Any, n: int) -> Tensor:
        """A copy of an output as rows (n, d)."""
        if not isinstance(out, Tensor):
            raise SSLToolError(
                f"the output of layer {name!r} is {_described(out)}; name the tensor in it: (module, key of its output)"
            )
        over, dims = POOLED.get(out.dim(), ("", ()))
        if not out.is_floating_point() or (out.dim() != 2 and not over) or len(out) != n or not out.numel():
            raise SSLToolError(
                f"the output of layer {name!r} for {counted(n, 'image')} is {_described(out)}; it must be (N, d), "
                "(N, C, H, W) or (N, T, d), of floating-point numbers"
            )
        wide = out.detach().float()
        if not over:
            return wide.clone()
        if any(out.shape[dim] > 1 for dim in dims):
            self.said.setdefault(name, f"the output of layer {name!r}, {_described(out)}, is averaged over its {over}")
        return wide.mean(dim=dims)


def _is_attribute(out: Any, key: Any) -> bool:
    return isinstance(key, str) and not isinstance(out, Mapping) and hasattr(out, key)


def _bound(called: Any) -> int | None:
    if isinstance(called, nn.Sequential):
        kept = [part for part in called if not isinstance(part, KEEPS_RANK)]
        return _bound(kept[-1]) if kept else None
    return min(called.in_features, called.out_features) if isinstance(called, nn.Linear) else None


def _described(value: Any) -> str:
    """A value that is not what it should be, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {first_names([str(key) for key in value]) or '(none)'}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)} values"
    return "None" if value is None else f"a {type(value).__name__}"
