"""What the training loop knows of a method: the interface, and how its options are declared and read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from ssltool.data.views import Recipe
from ssltool.errors import SSLToolError, unknown
from ssltool.settings import Checked, flag, value_type


class Output(NamedTuple):
    """What a forward pass hands the loop: the ``loss``, and the ``projection`` (N, D) that is watched for collapse."""

    loss: Tensor
    projection: Tensor


class Method(nn.Module):
    """A way of training without labels. One subclass a paper.

    A subclass names its options' class, builds its heads in ``__init__`` after calling ``super().__init__`` with the
    backbone, and implements ``forward(views, rows) -> Output``. Everything else has a default. The loop calls, per
    step, ``forward``, the optimiser, ``after_step``; per epoch, ``start_epoch``.
    """

    Options: ClassVar[type[Any]]
    projector: nn.Module
    predictor: nn.Module

    def __init__(self, backbone: nn.Module, dim: int, options: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.backbone_dim = dim
        self.options = options

    def recipes(self, base: Recipe) -> list[Recipe]:
        """How each view of an image is made; two views by the run's recipe unless a method says otherwise."""
        return [base, base]

    def forward(self, views: list[Tensor], rows: Tensor) -> Output:
        """The loss of a batch: ``views`` are (N, 3, S, S) each, ``rows`` (N,) the images' numbers."""
        raise NotImplementedError

    def param_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups; ``fixed_lr`` keeps a group's rate constant, ``is_encoder`` marks what
        ``--n-warmup-steps`` freezes."""
        return [{"params": trainable(self), "fixed_lr": False, "is_encoder": True}]

    def start_epoch(self, epoch: int) -> None:
        """Called before the first step of an epoch, also of a resumed one."""

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step; ``progress`` runs from 0 to 1 over the training."""

    def embed(self, images: Tensor, layer: str) -> Tensor:
        """The output (N, D) of ``backbone``, ``projector`` or ``predictor`` for ``images`` (N, 3, S, S).

        Raises:
            SSLToolError: if the method has no such layer.
        """
        out = self.backbone(images)
        for name in ("projector", "predictor"):
            if layer == "backbone":
                break
            if not isinstance(getattr(self, name, None), nn.Module):
                raise SSLToolError(f"--layer {layer}: this model has no {name}")
            out = getattr(self, name)(out)
            if layer == name:
                break
        return out


def trainable(*modules: nn.Module) -> list[nn.Parameter]:
    """The parameters of ``modules`` that take gradients."""
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def read_options(method: str, cls: type[Checked], given: Mapping[str, Any]) -> Any:
    """The options of a method from names and values, which may be text.

    Raises:
        SSLToolError: for an unknown name (the right ones are listed), a wrong type, or a value out of range.
    """
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {}
    for name, value in given.items():
        name = name.replace("-", "_")
        if name not in names:
            raise unknown(f"option of {method}", name, names)
        kind = value_type(cls, name)
        values[name] = _parse(name, value, kind) if isinstance(value, str) else value
    return cls(**values)


def _parse(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() in words:
            return words[text.lower()]
    else:
        try:
            return kind(text)
        except ValueError:
            pass
    wanted = "true or false" if kind is bool else f"of type {kind.__name__}"
    raise SSLToolError(f"--set {name}={text}: the value must be {wanted} (flag {flag(name)})")


def gather_options(assignments: tuple[str, ...], flags: Mapping[str, Any]) -> dict[str, Any]:
    """``--set name=value`` pairs and the flags that stand for method options, as one mapping.

    Raises:
        SSLToolError: for a pair without ``=``, or an option that is given twice.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise SSLToolError(f"--set {assignment}: write it as NAME=VALUE")
        if name in given:
            raise SSLToolError(f"the option {name} is given twice; keep one of them")
        given[name] = value.strip()
    return given
