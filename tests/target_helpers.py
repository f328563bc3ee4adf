"""Softmax and cross-entropy by numpy, what references of losses are made from; and small networks with patches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods_helpers import SMALL, WIDTH, facts
from ssltool.methods import method_class, method_options
from ssltool.methods.base import Method
from ssltool.models.vit import ViT


def array(rows: Any) -> np.ndarray:
    """Numbers as a float64 array."""
    return rows.detach().double().numpy() if isinstance(rows, Tensor) else np.asarray(rows, np.float64)


def softmax(logits: Any) -> np.ndarray:
    """exp(logits) along the last axis, scaled to sum 1."""
    e = np.exp(array(logits) - array(logits).max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def cross_entropy(targets: Any, logits: Any) -> np.ndarray:
    """-sum targets log softmax(logits) along the last axis."""
    return -(array(targets) * np.log(softmax(logits))).sum(axis=-1)


def toy_vit() -> tuple[nn.Module, int]:
    """A ViT of one layer for 8 pixels in patches of 4, with positions that do not learn, and its width."""
    model = ViT(8, 4, 1, 2, hidden_dim=WIDTH, mlp_dim=16)
    model.heads = nn.Identity()
    model.encoder.pos_embedding.requires_grad_(False)
    return model, WIDTH


def study(**options: Any) -> Method:
    """The student/teacher study on ``toy_vit``, with weights by seed 0 and without dropout."""
    torch.manual_seed(0)
    checked = method_options("teacher", {"dim": SMALL["dim"], "hidden": SMALL["hidden"], "dropout": 0.0, **options})
    return method_class("teacher")(*toy_vit(), checked, facts(second_backbone=toy_vit))
