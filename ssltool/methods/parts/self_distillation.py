"""What DINO and its successors share: options, the projection head, clipping and weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ssltool.methods.options import AsymmetricViews, MultiCrop, local_crops, momentum, momentum_final, width
from ssltool.methods.parts.decay import only_matrices_decay
from ssltool.methods.parts.momentum import MomentumMethod
from ssltool.models.heads import mlp
from ssltool.models.vit import add_drop_path
from ssltool.settings import setting


@dataclass(frozen=True)
class SelfDistillationOptions(AsymmetricViews, MultiCrop):
    """Options of a student that learns from its momentum teacher across crops. Defaults are DINO's for ViT-S."""

    dim: int = width(256)
    hidden: int = width(2048, "the projector's hidden layers")
    momentum: float = momentum(0.996)
    momentum_final: float | None = momentum_final(1.0)
    clip_grad: float = setting(3.0, "maximum gradient norm of each parameter; 0 disables clipping", minimum=0)
    drop_path: float = setting(
        0.0, "rate of stochastic depth in the student's last block, for a ViT", minimum=0, maximum=0.99
    )
    local_crops: int = local_crops(8)


def projection_head(widths: list[int], *, bn: bool = False) -> nn.Sequential:
    """DINO's projector: linear layers with GELU, by default without batch norm, with small initial weights."""
    head = mlp(widths, hidden_bn=bn, activation=nn.GELU)
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return head


class SelfDistillation(MomentumMethod):
    """Base class of the methods whose options are ``SelfDistillationOptions``."""

    def make_teacher(self, **modules: nn.Module) -> None:
        """Creates the teacher; only then the student gets its stochastic depth, which the teacher does not have."""
        super().make_teacher(**modules)
        if self.options.drop_path:
            add_drop_path(self.backbone, self.options.drop_path)

    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of ``Method``, with biases and normalisation parameters in groups without weight decay."""
        return only_matrices_decay(super().param_groups())

    def before_update(self) -> None:
        if self.options.clip_grad:
            self.clip_gradients(self.options.clip_grad)

    def clip_gradients(self, limit: float) -> None:
        """Scales the gradient of each parameter whose norm is above ``limit`` to that norm."""
        for p in self.parameters():
            if p.grad is not None:
                p.grad.mul_((limit / (p.grad.norm() + 1e-6)).clamp(max=1.0))
