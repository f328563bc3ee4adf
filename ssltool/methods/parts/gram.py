"""Gram anchoring: the similarities between the patches of an image stay those of an earlier network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.training.precision import without_autocast


@without_autocast
def gram_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """|X_S X_S^T - X_G X_G^T|_F^2 / P^2, of DINOv3 (arXiv:2508.10104), averaged over the images; in [0, 4].

    X are the L2-normalised patch tokens of an image. The division by P^2, and Gram matrices of single images, are those
    of the released code and its configuration.

    Args:
        student: patch tokens (N, P, D).
        teacher: those of the Gram teacher, (N, P, D); detached.

    Raises:
        SSLToolError: if the shapes differ, or are not (N, P, D).
    """
    if student.dim() != 3 or student.shape != teacher.shape or not student.numel():
        found = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise SSLToolError(f"gram_loss expects patch tokens (N, P, D) of student and teacher; found {found}")
    x_s, x_g = F.normalize(student, dim=2), F.normalize(teacher.detach(), dim=2)
    return (x_s @ x_s.mT - x_g @ x_g.mT).square().mean()
