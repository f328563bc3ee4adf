"""DirectPred: Tian, Chen and Ganguli, "Understanding Self-Supervised Learning Dynamics without Contrastive Pairs", ICML
2021, arXiv:2102.06810; and DirectCopy: Wang, Chen, Du and Tian, "Towards Demystifying Representation Learning with
Non-contrastive Self-supervision", arXiv:2110.04947.

BYOL with a linear predictor that is not trained but computed from the correlation of its inputs. Without it
(``--set predictor=none``) the network collapses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import Output, RunFacts
from ssltool.methods.byol import byol_loss
from ssltool.methods.options import AsymmetricViews, Ineffective, momentum, momentum_final, width
from ssltool.methods.parts.momentum import MomentumMethod
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather

SMALLEST = 1e-4
"""The smallest eigenvalue of the predictor, as in the released code; the largest is 1 + eps."""


def directpred_weights(f: Tensor, eps: float = 0.01) -> Tensor:
    """The predictor U diag(p) U^T of Eq. 18 of arXiv:2102.06810, for F = U diag(s) U^T.

    As in the released code p_j = max(sqrt(s_j / max s) + eps, 1e-4). The paper's is sqrt(s_j) + eps max s: the scale of
    p does not change a cosine, but eps is relative to max s there, and to its square root here.

    Args:
        f: the correlation of the predictor's inputs, (D, D), symmetric with eigenvalues of at least 0.
        eps: boosts small eigenvalues; at least 0.

    Raises:
        SSLToolError: if ``f`` is not square.
    """
    if f.dim() != 2 or f.shape[0] != f.shape[1]:
        raise SSLToolError(f"directpred_weights expects a square matrix; found {tuple(f.shape)}")
    s, u = torch.linalg.eigh(f)
    s = s.clamp(min=0.0)
    p = ((s / s.max().clamp(min=torch.finfo(s.dtype).tiny)).sqrt() + eps).clamp(min=SMALLEST)
    return (u * p) @ u.mT


def directcopy_weights(f: Tensor, eps: float = 0.01) -> Tensor:
    """The predictor F + eps I of DirectCopy, as in the released code, for F (D, D)."""
    return f + eps * torch.eye(len(f), dtype=f.dtype, device=f.device)


class ComputedLinear(nn.Linear):
    """A square linear layer without bias whose weights are a buffer, at first the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, bias=False)
        del self.weight
        self.register_buffer("weight", torch.eye(dim))


@dataclass(frozen=True)
class DirectPredOptions(AsymmetricViews):
    """Options of DirectPred. Defaults are those of the released code's command and configuration (STL-10)."""

    dim: int = width(128)
    hidden: int = width(512, "the projector's hidden layer")
    predictor: str = setting(
        "directpred",
        "predictor: by the eigenvalues of the correlation, the correlation itself, or none",
        choices=("directpred", "directcopy", "none"),
    )
    eps: float = setting(0.01, "boost of the small eigenvalues of the correlation", minimum=0)
    rho: float = setting(0.3, "weight of the earlier batches in the correlation", minimum=0, maximum=1)
    freq: int = setting(1, "steps between updates of the predictor", minimum=1)
    momentum: float = momentum(0.996)
    momentum_final: float | None = momentum_final(None)

    def ineffective(self) -> list[Ineffective]:
        return [Ineffective(("eps", "rho", "freq"), self.predictor == "none", "predictor=none")]


class DirectPred(MomentumMethod):
    """DirectPred. Projector: a hidden layer with BN and a linear layer. Predictor: a matrix without bias.

    The first step has the identity as predictor. Between two updates it is constant; the released code trains it then.
    """

    Options = DirectPredOptions
    compares_images = False
    correlation: Tensor

    def __init__(self, backbone: nn.Module, dim: int, options: DirectPredOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, options.hidden, options.dim])
        self.predictor: nn.Module = nn.Identity()
        if options.predictor != "none":
            self.predictor = ComputedLinear(options.dim)
            self.register_buffer("correlation", torch.zeros(options.dim, options.dim))
        self.make_teacher()

    def forward(self, batch: Batch) -> Output:
        z1, z2 = (self.projector(self.backbone(view)).float() for view in batch.views)
        p1, p2 = self.predictor(z1).float(), self.predictor(z2).float()
        t1, t2 = (self.teacher_forward(view) for view in batch.views)
        return Output(byol_loss(p1, p2, t1, t2), z1.detach(), (z2.detach(),))

    @torch.no_grad()
    def update_buffers(self, output: Output) -> None:
        """F <- rho F + (1 - rho) mean z z^T over both views (Eq. 19), and the predictor of F every ``freq`` steps."""
        o = self.options
        if o.predictor == "none":
            return
        z = torch.cat([gather(output.projection), gather(*output.for_buffers)])
        self.correlation.lerp_(z.mT @ z / len(z), 1.0 - o.rho if self.now.step else 1.0)
        if self.now.step % o.freq == 0:
            weights = directpred_weights if o.predictor == "directpred" else directcopy_weights
            cast(Tensor, self.predictor.weight).copy_(weights(self.correlation, o.eps))

    def collapse_causes(self) -> dict[str, bool]:
        return super().collapse_causes() | {"there is no predictor (predictor=none)": self.options.predictor == "none"}

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (0.0,)
