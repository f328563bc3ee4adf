"""Numbers that say how far representations have collapsed.

``s`` are singular values of the centred N x d matrix of representations, (min(N, d),), largest first; ``x`` is the
matrix itself, (N, d). Every function returns a float.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.collapse.spectrum import row_blocks, singular_values
from ssltool.errors import SSLToolError
from ssltool.numeric import widest

RANKME_EPS = 1e-7


def auc(s: Tensor) -> float:
    """Area under the cumulative explained variance, Eq. 2 of arXiv:2209.15007: mean_j (sum_{i<=j} s_i / sum s).

    Range [(d + 1) / (2 d), 1] for d values: just above 0.5 is a flat spectrum, 1 complete collapse (rank 1, or all
    rows the same).
    """
    s = _values(s)
    total = s.sum()
    if total == 0:
        return 1.0
    return float((s.cumsum(0) / total).mean())


def effective_rank(s: Tensor) -> float:
    """exp of the entropy of s / sum s (Roy and Vetterli 2007).

    Range [1, d]: higher is healthier; 0 where all rows are the same.
    """
    s = _values(s)
    total = s.sum()
    if total == 0:
        return 0.0
    return float(torch.exp(torch.special.entr(s / total).sum()))


def rankme(x: Tensor) -> float:
    """exp of the entropy of s / sum s + 1e-7, s of the *uncentred* matrix (Garrido et al., arXiv:2210.02885, Eq. 1).

    Range [1, d]: higher is healthier. Unlike ``effective_rank`` it counts the mean as a direction. 1 where all is 0.
    """
    return rankme_of_spectrum(singular_values(x, center=False))


def rankme_of_spectrum(s: Tensor) -> float:
    """``rankme`` from the singular values of the uncentred matrix, where one has them already."""
    s = _values(s)
    total = s.sum()
    if total == 0:
        return 1.0
    p = s / total + RANKME_EPS
    return float(torch.exp(-(p * p.log()).sum()))


def feature_std(x: Tensor) -> float:
    """Mean over dimensions of the standard deviation of L2-normalised rows, times sqrt(d) (SimSiam, Fig. 2).

    Range [0, about 1]: 1 for directions spread evenly, 0 for complete collapse. A collapse onto a subspace can pass it.
    """
    return float(feature_std_tensor(x))


def feature_std_tensor(x: Tensor) -> Tensor:
    """``feature_std`` as a scalar tensor on x's device, so that a training step need not wait for it."""
    if x.dim() != 2 or not len(x):
        raise SSLToolError(f"representations must be (N, d) with rows; found shape {tuple(x.shape)}")
    wide = widest(x.device)
    total = squares = torch.zeros(x.shape[1], dtype=wide, device=x.device)
    for block in row_blocks(x):
        unit = torch.nn.functional.normalize(block.to(wide), dim=1)
        total = total + unit.sum(dim=0)
        squares = squares + unit.square().sum(dim=0)
    variance = squares / len(x) - (total / len(x)).square()
    return variance.clamp(min=0.0).sqrt().mean() * x.shape[1] ** 0.5


def _values(s: Tensor) -> Tensor:
    if s.dim() != 1 or not len(s):
        raise SSLToolError(f"a spectrum is one row of singular values; found shape {tuple(s.shape)}")
    return s.double().sort(descending=True).values


READING = {
    "auc": "0.5 flat .. 1 collapsed",
    "effective_rank": "1 collapsed .. d flat",
    "rankme": "1 collapsed .. d flat; not centred",
    "feature_std": "0 collapsed .. 1 spread; below 1 for outputs of a ReLU",
}
"""How to read each metric, for tables and help."""
