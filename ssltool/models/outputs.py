"""Features of a network: the output of a layer or of any module, per image or per position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ssltool.config import LAYERS
from ssltool.errors import SSLToolError, unknown
from ssltool.methods.base import Method
from ssltool.models.backbones import last_layer, token_layout
from ssltool.models.family import TokenLayout


class Features:
    """Maps images (N, 3, S, S) to features (N, D), or (N, P, D) if each of an image's P positions is kept.

    Args:
        layer: ``backbone``, ``projector`` or ``predictor``, or the dotted name of a module that is called to compute
            them (``backbone.layer3``, ``projector.0``) or belongs to another backbone of the model
            (``teacher.backbone``). The modules after it are not run.
        tokens: which tokens of a transformer: ``cls``, the class token; ``mean``, the mean of the patch tokens;
            ``patch``, every patch token. None for what the backbone returns, or for the class token of a layer inside.
        pool: how a feature map is pooled: ``mean``, which is the default, or ``none``, which keeps every position.

    Raises:
        UsageError: if the model has no such layer, with the nearest names.
    """

    def __init__(self, method: Method, layer: str, *, tokens: str | None = None, pool: str | None = None) -> None:
        self.method, self.layer, self.tokens, self.pool = method, layer, tokens, pool
        parts = layer.split(".")
        within = parts[: parts.index("backbone") + 1] if "backbone" in parts else []
        if layer not in LAYERS:
            _find(method, layer)
        self._backbone = _find(method, ".".join(within)) if within else None
        self._is_backbone = parts == within
        self._layout = None if self._backbone is None else token_layout(self._backbone)

    @torch.inference_mode()
    def shape(self, image_size: int, device: torch.device) -> tuple[int, ...]:
        """The shape of an image's features: (D,) or (P, D).

        Raises:
            SSLToolError: for a setting that has no effect with this layer, or a layer whose output is not one vector,
                sequence or feature map per image.
        """
        return tuple(self(torch.zeros(2, 3, image_size, image_size, device=device)).shape[1:])

    @property
    def directions(self) -> int | None:
        """The largest rank that the output can have; None if it is unknown."""
        return self.method.max_rank(self.layer) if self.layer in LAYERS else None

    def __call__(self, images: Tensor) -> Tensor:
        out, layout = self._output(images)
        if layout is not None:
            self._refuse(pool="pools feature maps; choose a transformer's output with --tokens")
            return self._select(out, layout)
        self._refuse(tokens="selects tokens of a transformer")
        if out.dim() == 2:
            if not self._is_backbone or self._layout is not None:  # a ResNet's output is already a mean
                self._refuse(pool="pools feature maps")
            return out
        if out.dim() == 4:
            out = out.flatten(2).mT
        return out if self.pool == "none" else out.mean(dim=1)

    def _select(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """The chosen tokens of ``tokens`` (N, T, D): (N, D), or (N, P, D) if every patch is chosen."""
        choice = self.tokens or ("cls" if layout.class_token else "mean")
        if choice == "cls":
            if not layout.class_token:
                raise SSLToolError("--tokens cls: this network has no class token; use --tokens mean")
            return tokens[:, 0]
        patches = tokens[:, layout.prefix :]
        return patches if choice == "patch" else patches.mean(dim=1)

    def _output(self, images: Tensor) -> tuple[Tensor, TokenLayout | None]:
        """The layer's output (N, D), (N, P, D) or (N, D, H, W), and the order of its tokens if it is a sequence."""
        backbone = self._backbone
        if self._is_backbone and backbone is not None:
            if self.tokens is not None and self._layout is not None:
                return last_layer(backbone, images), self._layout
            if self.pool == "none" and self._layout is None:
                return last_layer(backbone, images), None
        if self.layer in LAYERS:
            out: Any = self.method.embed(images, self.layer)
        elif self._is_backbone and backbone is not None:
            out = backbone(images)
        else:
            out = self._module_output(backbone or self.method.outputs, images)
        if not isinstance(out, Tensor) or len(out) != len(images) or out.dim() not in (2, 3, 4):
            found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise SSLToolError(
                f"--layer {self.layer} returns {found} for {len(images)} images; name a module that returns one "
                "vector, sequence or feature map per image"
            )
        return out, self._layout if out.dim() == 3 else None

    def _module_output(self, run: Callable[[Tensor], object], images: Tensor) -> Any:
        """The output of the module named ``layer`` in ``run(images)``, which is stopped there."""
        handle = self.method.get_submodule(self.layer).register_forward_hook(_stop)
        try:
            run(images)
        except _Reached as reached:
            return reached.output
        finally:
            handle.remove()
        raise SSLToolError(
            f"--layer {self.layer} is not called when the network computes its outputs; name one of its submodules, "
            "or another module"
        )

    def _refuse(self, **why: str) -> None:
        for name, reason in why.items():
            value = getattr(self, name)
            if value is not None:
                raise SSLToolError(
                    f"--{name} {value} has no effect with --layer {self.layer}: it {reason}; leave it out"
                )


class _Reached(Exception):
    def __init__(self, output: Any) -> None:
        self.output = output


def _stop(module: nn.Module, inputs: object, output: Any) -> NoReturn:
    raise _Reached(output[0] if isinstance(output, tuple) else output)  # attention also returns its weights


def _find(method: Method, layer: str) -> nn.Module:
    names = dict(method.named_modules(remove_duplicate=False))
    if layer in names and layer:
        return names[layer]
    # Suggest full names that end with the given one, and the children of the longest prefix that exists.
    suggestions = [name for name in names if name.endswith(f".{layer}")]
    parent = layer
    while parent not in names:
        parent = parent.rpartition(".")[0]
    suggestions += [f"{parent}.{child}".lstrip(".") for child, _ in names[parent].named_children()]
    raise unknown("layer", layer, suggestions)
