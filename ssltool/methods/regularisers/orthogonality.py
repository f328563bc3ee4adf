"""Orthogonality regularisation of weights: He, Du and Ma, "Preventing Dimensional Collapse in Self-Supervised Learning
via Orthogonality Regularization", NeurIPS 2024, arXiv:2411.00392."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.training.precision import without_autocast


@without_autocast
def orthogonality_loss(weights: Sequence[Tensor]) -> Tensor:
    """The soft orthogonality of arXiv:2411.00392: the sum over the weights of |W^T W - I|_F^2, at least 0.

    A weight (out, in, ...) is the matrix W (out, in * ...) of a linear or convolutional layer. Of a matrix with more
    columns than rows the rows can be orthonormal, not the columns: W W^T takes the place of W^T W.

    Args:
        weights: at least one tensor of two or more dimensions.

    Raises:
        SSLToolError: if there is none.
    """
    if not weights:
        raise SSLToolError("orthogonality_loss expects at least one weight; found none")
    terms = []
    for weight in weights:
        w = weight.flatten(1)
        gram = w @ w.mT if w.shape[0] < w.shape[1] else w.mT @ w
        terms.append((gram - torch.eye(len(gram), dtype=w.dtype, device=w.device)).square().sum())
    return torch.stack(terms).sum()
