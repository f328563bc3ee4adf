"""Metrics of several views of each image: ``x`` (N, Q, d), Q views of N images, as ``save-reprs --views Q`` writes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssltool.diagnosis.metrics.of_rows import unit_length
from ssltool.errors import SSLToolError
from ssltool.reprs.nonfinite import refuse_nonfinite
from ssltool.training.precision import widest_float

LIDAR_DELTA = 1e-4
LIDAR_EPS = 1e-8


def alignment(x: Tensor) -> float:
    """Mean squared distance between views of an image, of L2-normalised rows (Wang and Isola, arXiv:2005.10242).

    Range [0, 4]: 0 if all views of an image are equal, as in collapsed representations; about 2 for unrelated views.
    The mean is over all Q (Q - 1) / 2 pairs.

    Raises:
        SSLToolError: unless ``x`` is (N, Q, d) with Q at least 2.
    """
    unit = unit_length(_views(x))
    q = unit.shape[1]
    squares = unit.square().sum(dim=(1, 2))
    together = unit.sum(dim=1).square().sum(dim=1)
    return float((2 * (q * squares - together) / (q * (q - 1))).mean())


def lidar(x: Tensor) -> float:
    """exp of the entropy of the eigenvalues of Sw^-1/2 Sb Sw^-1/2: the number of directions that discriminate images,
    not views (Thilak et al., ICLR 2024, arXiv:2312.04000).

    Range [1, d]: higher is healthier. Sb is the unbiased covariance of the image means. Sw is the covariance of the
    views around them, plus 1e-4 I. 1e-8 is added to the normalised eigenvalues. The paper uses about 50 views of 1,000
    images.

    Raises:
        SSLToolError: unless ``x`` is (N, Q, d) with N and Q at least 2.
    """
    x = _views(x)
    n, q, d = x.shape
    if n < 2:
        raise SSLToolError(f"lidar requires at least 2 images; found {n}")
    means = x.mean(dim=1)
    between = (means - means.mean(dim=0)) / math.sqrt(n - 1)
    within = (x - means[:, None]).reshape(-1, d) / math.sqrt(n * (q - 1))
    eigenvalues, vectors = torch.linalg.eigh(within.T @ within)
    whitening = vectors / (eigenvalues.clamp(min=0.0) + LIDAR_DELTA).sqrt()
    # The eigenvalues of Sw^-1/2 Sb Sw^-1/2 are the squared singular values of the whitened means.
    values = torch.linalg.svdvals(between @ whitening).square()
    values = torch.nn.functional.pad(values, (0, d - len(values)))  # fewer images than dimensions
    total = values.sum()
    p = (values / total if total > 0 else values) + LIDAR_EPS
    return float(torch.exp(-(p * p.log()).sum()))


def _views(x: Tensor) -> Tensor:
    if x.dim() != 3 or x.shape[1] < 2 or not len(x):
        raise SSLToolError(
            f"this metric requires views, (N, Q, d) with Q at least 2; found shape {tuple(x.shape)}; "
            "ssltool save-reprs --views Q saves them"
        )
    refuse_nonfinite(x)
    return x.to(widest_float(x.device))
