"""SIGReg, the sketched isotropic Gaussian regularisation of LeJEPA (arXiv:2511.08544)."""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.diagnosis.slices import epps_pulley


def sigreg(z: Tensor, directions: Tensor) -> Tensor:
    """SIGReg (Algorithm 1 of arXiv:2511.08544): the mean over ``directions`` (D, K) of the Epps-Pulley statistic of
    the rows ``z`` (N, D); see ``diagnosis.slices.epps_pulley``."""
    return epps_pulley(z @ directions).mean()


def unit_directions(dim: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random unit directions (``dim``, ``count``), float32, drawn with a CPU ``generator``."""
    drawn = torch.randn(dim, count, generator=generator)
    return drawn / torch.linalg.vector_norm(drawn, dim=0)
