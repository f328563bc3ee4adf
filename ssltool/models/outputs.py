"""Features of a network: the output of a layer or of any module, per image or per position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ssltool.config import LAYERS
from ssltool.errors import SSLToolError, unknown
from ssltool.methods.base import Method
from ssltool.models.backbones import patch_tokens
from ssltool.models.vit import ViT


class Features:
    """Maps images (N, 3, S, S) to features (N, D), or (N, P, D) if each of an image's P positions is kept.

    Args:
        layer: ``backbone``, ``projector`` or ``predictor``, or the dotted name of a module that is called to compute
            them (``backbone.layer3``, ``projector.0``) or belongs to another backbone of the model
            (``teacher.backbone``). The modules after it are not run.
        tokens: which tokens of a ViT: ``cls``, the class token, which is the default; ``mean``, the mean of the patch
            tokens; ``patch``, every patch token.
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
        out, has_class_token = self._output(images)
        if has_class_token:
            self._refuse(pool="pools feature maps; choose a ViT's output with --tokens")
            if self.tokens in (None, "cls"):
                return out[:, 0]
            return out[:, 1:] if self.tokens == "patch" else out[:, 1:].mean(dim=1)
        self._refuse(tokens="selects tokens of a ViT")
        if out.dim() == 2:
            if not self._is_backbone or isinstance(self._backbone, ViT):  # a ResNet's output is already a mean
                self._refuse(pool="pools feature maps")
            return out
        if out.dim() == 4:
            out = out.flatten(2).mT
        return out if self.pool == "none" else out.mean(dim=1)

    def _output(self, images: Tensor) -> tuple[Tensor, bool]:
        """The layer's output (N, D), (N, P, D) or (N, D, H, W), and whether its first position is a class token."""
        backbone = self._backbone
        if self._is_backbone and backbone is not None:
            if self.tokens is not None and isinstance(backbone, ViT):
                return backbone.tokens(images), True
            if self.pool == "none" and not isinstance(backbone, ViT):
                return patch_tokens(backbone, images), False
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
        return out, out.dim() == 3 and isinstance(backbone, ViT)

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
