"""What is taken out of a network: the output of a layer, of one of its modules, or of places of an image."""

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
    """Images (N, 3, S, S) to rows: (N, D), or (N, P, D) where the P places of an image are kept, row by row.

    ``layer`` is ``backbone``, ``projector`` or ``predictor``, or the dotted name of any module that is called on the
    way to them (``backbone.layer3``, ``projector.0``) or belongs to another backbone of the model
    (``teacher.backbone``); what follows the module is not computed. ``tokens`` chooses among a ViT's: ``cls``, the
    class token, which is the default; ``mean`` of the patches'; ``patch``, each of them. ``pool`` says what becomes of
    a map of places: ``mean``, the default, or ``none``, which keeps them.

    Raises:
        SSLToolError: for a layer that the model has not, with the nearest names.
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
        """What one image becomes: (D,), or (P, D).

        Raises:
            SSLToolError: for a setting that does nothing with this layer, or a layer without one row, map or sequence
                an image.
        """
        return tuple(self(torch.zeros(2, 3, image_size, image_size, device=device)).shape[1:])

    @property
    def directions(self) -> int | None:
        """The largest rank that the output can have, where it is known."""
        return self.method.max_rank(self.layer) if self.layer in LAYERS else None

    def __call__(self, images: Tensor) -> Tensor:
        out, has_class_token = self._output(images)
        if has_class_token:
            self._refuse(pool="keeps or averages maps; a ViT's output is chosen by --tokens")
            if self.tokens in (None, "cls"):
                return out[:, 0]
            return out[:, 1:] if self.tokens == "patch" else out[:, 1:].mean(dim=1)
        self._refuse(tokens="is for the tokens of a ViT")
        if out.dim() == 2:
            if not self._is_backbone or isinstance(self._backbone, ViT):  # a ResNet's own output is the mean already
                self._refuse(pool="is for maps of places")
            return out
        if out.dim() == 4:
            out = out.flatten(2).mT
        return out if self.pool == "none" else out.mean(dim=1)

    def _output(self, images: Tensor) -> tuple[Tensor, bool]:
        """The layer's output (N, D), (N, P, D) or (N, D, H, W), and whether its first place is a class token."""
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
            out = self._stopped_at(backbone or self.method.outputs, images)
        if not isinstance(out, Tensor) or len(out) != len(images) or out.dim() not in (2, 3, 4):
            found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise SSLToolError(
                f"--layer {self.layer} makes {found} of {len(images)} images, which is no row, map or sequence an "
                "image; name another module"
            )
        return out, out.dim() == 3 and isinstance(backbone, ViT)

    def _stopped_at(self, run: Callable[[Tensor], object], images: Tensor) -> Any:
        """The output of the module named ``layer`` in ``run(images)``, which goes no further."""
        handle = self.method.get_submodule(self.layer).register_forward_hook(_stop)
        try:
            run(images)
        except _Reached as reached:
            return reached.output
        finally:
            handle.remove()
        raise SSLToolError(
            f"--layer {self.layer} is not called on the way from an image to the predictor; name one of its parts, or "
            "another module"
        )

    def _refuse(self, **why: str) -> None:
        for name, reason in why.items():
            value = getattr(self, name)
            if value is not None:
                raise SSLToolError(
                    f"--{name} {value} does nothing with --layer {self.layer}: it {reason}; leave it out"
                )


class _Reached(Exception):
    def __init__(self, output: Any) -> None:
        self.output = output


def _stop(module: nn.Module, inputs: object, output: Any) -> NoReturn:
    raise _Reached(output[0] if isinstance(output, tuple) else output)  # attention gives its weights too


def _find(method: Method, layer: str) -> nn.Module:
    names = dict(method.named_modules(remove_duplicate=False))
    if layer in names and layer:
        return names[layer]
    # The parts of the last module on the way that there is, and full names of what was named without its path.
    known = [name for name in names if name.endswith(f".{layer}")]
    way = layer
    while way not in names:
        way = way.rpartition(".")[0]
    known += [f"{way}.{child}".lstrip(".") for child, _ in names[way].named_children()]
    raise unknown("layer", layer, known)
