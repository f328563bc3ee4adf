"""The vision transformer of the student/teacher collapse study, as its notebook builds and initialises it."""

from __future__ import annotations

import functools

import torch
from torch import nn

from ssltool.models.counterpart import Counterpart, call
from ssltool.models.vit import ViT, ViTs, ViTShape, counterpart_of, divided_into_patches

NAME = "vit_notebook"
SHAPE = ViTShape(dim=256, depth=6, heads=4, patch=None)
DROPOUT = 0.1
EPS = 1e-5
"""PyTorch's default for layer norms; the other ViTs have 1e-6."""


class NotebookViT(ViTs):
    """``vit_notebook``: its positions are learned, and they and the class token begin as N(0, 1); PyTorch's default
    initialisation; dropout of 0.1 of attention weights, embeddings and hidden units."""

    settings = frozenset()

    def names(self) -> list[str]:
        return [NAME]

    def matches(self, name: str) -> bool:
        return name == NAME

    def owns(self, backbone: nn.Module) -> bool:
        return False  # the family of ViTs does

    def build(
        self, name: str, *, stem: str, image_size: int, stop_grad_conv1: bool, zero_init_residual: bool
    ) -> tuple[nn.Module, int]:
        dim, depth, heads = SHAPE[:3]
        patch = divided_into_patches(image_size)
        norm = functools.partial(nn.LayerNorm, eps=EPS)
        model = ViT(image_size, patch, depth, heads, dim, 4 * dim, DROPOUT, DROPOUT, norm_layer=norm)
        model.heads = nn.Identity()  # type: ignore[assignment]
        for block in model.encoder.layers:
            block.dropout = nn.Identity()  # type: ignore[assignment]  # only attention weights are dropped
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.reset_parameters()
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):
                module._reset_parameters()
        with torch.no_grad():
            nn.init.normal_(model.class_token)
            nn.init.normal_(model.encoder.pos_embedding)
        return model, dim

    def counterpart(self, library: str, name: str, *, stem: str, image_size: int) -> Counterpart | None:
        found = counterpart_of(library, SHAPE, image_size)
        if found is None or library == "timm":  # which takes no eps by name
            return None
        if library == "transformers":
            return Counterpart(found.model, found.arguments | {"layer_norm_eps": EPS}, translate=found.translate)
        norm = f"functools.partial(torch.nn.LayerNorm, eps={EPS})"
        network = call("torchvision.models.VisionTransformer", **found.arguments).removesuffix(")")
        build = f"import functools\n\nimport torch, torchvision\nmodel = {network}, norm_layer={norm})"
        return Counterpart(found.model, found.arguments, f"{build}\nmodel.heads = torch.nn.Identity()")


FAMILY = NotebookViT()
