"""What the integrations share: a monitor of the layers of a module, which are named by their attributes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from torch import nn

from ssltool.diagnosis.kinds import KINDS
from ssltool.diagnosis.limits import Limit
from ssltool.diagnosis.monitor import NEEDED_BY_MONITOR, Check, Monitor
from ssltool.errors import SSLToolError, first_names

Named = str | nn.Module | Callable[[Any], Any] | tuple[Any, Any]
"""A layer: the path of an attribute, such as ``"model.backbone"``, or as for ``Monitor``; paths also in pairs."""


class Attached:
    """A monitor that is made when the training starts, from the settings of ``Monitor``.

    ``checks`` are its looks. ``stop_on`` are the severities and kinds of collapse at which the training is to stop, as
    in ``--stop-on``.
    """

    def __init__(
        self,
        layers: Mapping[str, Named],
        images: Any = None,
        forward: Any = None,
        stop_on: str | None = None,
        **settings: Any,
    ) -> None:
        self.limit = Limit.parse(stop_on, "stop_on")
        asked = [kind for kind in self.limit.kinds if not KINDS[kind].quick]
        settings["kinds"] = tuple(dict.fromkeys((*settings.get("kinds", ()), *asked)))
        self.layers, self.images, self.forward, self.settings = layers, images, forward, settings
        self.monitor: Monitor | None = None
        self.checks: list[Check] = []

    def start(self, module: nn.Module, images: Callable[[], Any]) -> None:
        """Makes the monitor of the layers of ``module``; ``images()`` are those of the training, if none were given.

        Raises:
            SSLToolError: if the module has no such attribute, or as ``Monitor``.
        """
        found = {name: _resolved(module, layer) for name, layer in self.layers.items()}
        source = images() if self.images is None else self.images
        if source is None:
            raise SSLToolError("the monitor has no images: give it images, or the training a validation set")
        self.monitor = Monitor(source, found, forward=_resolved(module, self.forward), **self.settings)
        self.limit.require(self.monitor.needs(), "stop_on", NEEDED_BY_MONITOR)

    def step(self, step: int, loss: Any = None) -> Check | None:
        """A look at this step, if it is due."""
        check = None if self.monitor is None else self.monitor.step(step, loss)
        if check is not None:
            self.checks.append(check)
        return check

    def stops(self, check: Check) -> bool:
        """Whether the training is to stop."""
        return self.limit.is_reached(check.state, check.kinds)


class MonitorCallback:
    """The base of the callbacks: looks at layers of the module that is trained every ``every`` optimizer steps, and at
    the start.

    ``collapse_severity``, among the metrics, is 0 healthy, 1 partial, 2 complete. Problems are warnings.

    Args:
        layers: as for ``Monitor``, or paths of attributes of the module.
        images: as for ``Monitor``; by default those that the training validates on.
        forward: as for ``Monitor``, or the path of an attribute.
        stop_on: ``partial``, ``complete`` or kinds of collapse, as in ``--stop-on``: stops the training there.
        settings: the other arguments of ``Monitor``: ``every``, ``out``, ``labels``, ``size``, ``bounds``,
            ``constant_losses``.

    Raises:
        SSLToolError: as ``Monitor``, when the training starts.
    """

    def __init__(
        self,
        layers: Mapping[str, Named],
        images: Any = None,
        *,
        forward: str | Callable[[Any], Any] | None = None,
        stop_on: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.attached = Attached(layers, images, forward, stop_on, **settings)

    @property
    def checks(self) -> list[Check]:
        """The looks of this process."""
        return self.attached.checks


def numbers(check: Check) -> dict[str, float]:
    """The metrics of a look for a logger: those that are defined, without the step and the loss, which it has."""
    kept = {name: value for name, value in check.record.items() if name not in ("step", "loss")}
    values = {name: float(value) for name, value in kept.items() if isinstance(value, (int, float))}
    return values | ({} if check.verdict is None else {"collapse_severity": float(check.verdict.severity)})


def library(extra: str, *modules: str) -> ModuleType:
    """The first of ``modules`` that is installed.

    Raises:
        SSLToolError: if none is; it names the ``extra`` to install.
    """
    import importlib

    for name in modules:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
    raise SSLToolError(
        f"ssltool.integrations.{extra} needs {' or '.join(modules)}, which is not installed; run "
        f"pip install 'ssltool[{extra}]'"
    )


def _resolved(module: nn.Module, layer: Any) -> Any:
    """A layer, or the attribute of ``module`` that it names."""
    if isinstance(layer, tuple) and len(layer) == 2:
        return _resolved(module, layer[0]), layer[1]
    if not isinstance(layer, str):
        return layer
    try:
        return operator.attrgetter(layer)(module)
    except AttributeError as error:
        known = first_names([name for name, _ in module.named_children()])
        raise SSLToolError(f"{type(module).__name__} has no {layer!r}; its modules are {known}") from error
