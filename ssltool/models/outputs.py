"""Features of a network: the output of a layer or of any module, per image or per position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ssltool.config import LAYERS
from ssltool.errors import SSLToolError, unknown
from ssltool.methods.base import Method
from ssltool.models.backbones import channels_last, last_layer, patch_grid, token_layout
from ssltool.models.family import TokenLayout
from ssltool.models.tokens import TokenPlaces, TokenSequence, layout_of


class Features:
    """Maps images (N, 3, S, S) to features (N, D), or (N, P, D) if each of an image's P positions is kept.

    Args:
        layer: ``backbone``, ``projector`` or ``predictor``, or the dotted name of a module that is called to compute
            them (``backbone.layer3``, ``projector.0``) or belongs to another backbone of the model
            (``teacher.backbone``). The modules after it are not run.
        tokens: which tokens of a transformer: ``cls``, the class token; ``registers``; ``patch``, every patch token;
            ``mean``, the mean of the patch tokens; ``all``. The positions of a feature map are patches. None for what
            the backbone returns, or for the class token of a layer inside.
        pool: how a feature map is pooled: ``mean``, which is the default, or ``none``, which keeps every position.
        counts: the numbers of tokens of the last layer, by image size, which several layers may share.

    Raises:
        UsageError: if the model has no such layer, with the nearest names.
    """

    def __init__(
        self,
        method: Method,
        layer: str,
        *,
        tokens: str | None = None,
        pool: str | None = None,
        counts: dict[int, int] | None = None,
    ) -> None:
        self.method, self.layer, self.tokens, self.pool = method, layer, tokens, pool
        parts = layer.split(".")
        within = parts[: parts.index("backbone") + 1] if "backbone" in parts else []
        if layer not in LAYERS:
            _find(method, layer)
        self._backbone = _find(method, ".".join(within)) if within else None
        self._is_backbone = parts == within
        self._layout = None if self._backbone is None else token_layout(self._backbone)
        self._counts: dict[int, int] = {} if counts is None else counts

    @torch.inference_mode()
    def outline(self, image_size: int, device: torch.device) -> tuple[tuple[int, ...], TokenPlaces | None]:
        """The shape of an image's features, (D,) or (P, D), and the places of the P rows; None for (D,).

        Raises:
            SSLToolError: for a setting that has no effect with this layer, or a layer whose output is not one vector,
                sequence or feature map per image.
        """
        features, places = self._take(torch.zeros(2, 3, image_size, image_size, device=device))
        return tuple(features.shape[1:]), places

    def shape(self, image_size: int, device: torch.device) -> tuple[int, ...]:
        """The shape of an image's features: (D,) or (P, D); raises as ``outline``."""
        return self.outline(image_size, device)[0]

    @property
    def directions(self) -> int | None:
        """The largest rank that the output can have; None if it is unknown."""
        return self.method.max_rank(self.layer) if self.layer in LAYERS else None

    def __call__(self, images: Tensor) -> Tensor:
        return self._take(images)[0]

    def _take(self, images: Tensor) -> tuple[Tensor, TokenPlaces | None]:
        out = self._output(images)
        if out.dim() == 2:
            self._refuse(tokens="selects among the tokens or positions of an image, and this is one vector")
            if not self._is_backbone or self._layout is not None:  # a ResNet's output is already a mean
                self._refuse(pool="pools feature maps")
            return out, None
        of_tokens = out.dim() == 3 and self._layout is not None
        if of_tokens:
            self._refuse(pool="pools feature maps; choose a transformer's output with --tokens")
        elif out.dim() == 3:
            self._refuse(tokens="needs the order of the tokens, which is not known; choose with --pool")
        elif self.tokens is not None:
            self._refuse(pool="is another name of --tokens patch and mean")
        sequence = self.sequence(out, images)
        default = "patch" if self.pool == "none" and not sequence.layout.class_token else sequence.default
        return sequence.select(self.tokens or default, self.layer)

    def sequence(self, out: Tensor, images: Tensor) -> TokenSequence:
        """The tokens or positions of the layer's output ``out`` (N, T, D) or (N, D, H, W) for ``images``.

        Raises:
            SSLToolError: if it is not known which tokens are patches.
        """
        of_tokens = out.dim() == 3 and self._layout is not None
        return self._tokens(out, images) if of_tokens else self._positions(out)

    def checked(self, out: Any, images: Tensor) -> Tensor:
        """The layer's output ``out`` for ``images``, without what it is returned together with.

        Raises:
            SSLToolError: if it is not one vector, sequence or feature map per image.
        """
        out = out[0] if isinstance(out, tuple) else out  # attention also returns its weights
        if not isinstance(out, Tensor) or len(out) != len(images) or out.dim() not in (2, 3, 4):
            found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise SSLToolError(
                f"--layer {self.layer} returns {found} for {len(images)} images; name a module that returns one "
                "vector, sequence or feature map per image"
            )
        return out

    def _tokens(self, out: Tensor, images: Tensor) -> TokenSequence:
        """A transformer's tokens ``out`` (N, T, D) with their order."""
        backbone, layout, count = self._backbone, self._layout, out.shape[1]
        if backbone is None or layout is None:
            raise ValueError("only a transformer has tokens")
        if not self._is_backbone:
            last = self._last_count(backbone, images)
            found = layout_of(count, last, layout)
            if found is None:
                raise SSLToolError(
                    f"--layer {self.layer} gives {count} tokens and the last layer {last}, so it is not known which of "
                    "them are patches; choose another layer"
                )
            layout = found
        return TokenSequence(out, layout, patch_grid(backbone, count - layout.prefix))

    def _last_count(self, backbone: nn.Module, images: Tensor) -> int:
        """The number of tokens of the last layer for images of this size."""
        size = images.shape[-1]
        if size not in self._counts:
            self._counts[size] = last_layer(backbone, images[:1]).shape[1]
        return self._counts[size]

    def _positions(self, out: Tensor) -> TokenSequence:
        """The positions of ``out``: a feature map (N, D, H, W) or (N, H, W, D), or (N, P, D) with unknown places."""
        layout = TokenLayout(class_token=False)
        if out.dim() == 3:
            return TokenSequence(out, layout, None)
        first, second, third = out.shape[1:]
        # Images are square, so the sides of a map are equal.
        if first == second and not self._is_backbone and self._backbone is not None:
            out = out.permute(0, 3, 1, 2) if second != third or channels_last(self._backbone) else out
        return TokenSequence(out.flatten(2).mT, layout, (out.shape[2], out.shape[3]))

    def _output(self, images: Tensor) -> Tensor:
        """The layer's output (N, D), (N, P, D) or (N, D, H, W)."""
        backbone = self._backbone
        by_position = self.tokens is not None or (self.pool == "none" and self._layout is None)
        if self._is_backbone and backbone is not None and by_position:
            return last_layer(backbone, images)
        if self.layer in LAYERS:
            out: Any = self.method.embed(images, self.layer)
        elif self._is_backbone and backbone is not None:
            out = backbone(images)
        else:
            out = self._module_output(backbone or self.method.outputs, images)
        return self.checked(out, images)

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
    raise _Reached(output)


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
