"""The losses of methods beside lightly's, on the same embeddings: values, and gradients of the first view.

    python benchmarks/loss_peers.py [--rows 256] [--width 64]

The embeddings are normal with a decaying spectrum, in float64; two views of an image have a correlation of 0.8. A
difference of gradients is the norm of the difference relative to that of ours. Both programs are given the same random
slices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import click
import torch
from torch import Tensor
from torch.nn import functional

Views = list[Tensor]
SLICES = 1024


class Pair(NamedTuple):
    """A loss of ours and lightly's, of ``views`` (N, D)."""

    ours: Callable[[Views], Tensor]
    theirs: Callable[[Views], Tensor]
    views: int = 2


def contrastive() -> dict[str, Pair]:
    from lightly.loss import DirectCLRLoss, NTXentLoss

    from ssltool.methods.directclr import directclr_loss
    from ssltool.methods.simclr import nt_xent_loss

    return {
        "simclr": Pair(lambda z: nt_xent_loss(*z, 0.5), lambda z: NTXentLoss(0.5)(*z)),
        "directclr": Pair(lambda z: directclr_loss(*z, 16, 0.1), lambda z: DirectCLRLoss(16, 0.1)(*z)),
    }


def distillation() -> dict[str, Pair]:
    from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss, NegativeCosineSimilarity

    from ssltool.methods.byol import byol_loss
    from ssltool.methods.dino import dino_loss
    from ssltool.methods.ibot import masked_patch_loss
    from ssltool.methods.parts.koleo import koleo_loss
    from ssltool.methods.simsiam import simsiam_loss

    cosine = NegativeCosineSimilarity()

    def dino(z: Views) -> Tensor:
        return dino_loss(z, [view.detach() for view in z[:2]], z[0].new_zeros(z[0].shape[1]))

    def their_dino(z: Views) -> Tensor:
        loss = DINOLoss(z[0].shape[1], warmup_teacher_temp_epochs=0).double()
        return loss([view.detach() for view in z[:2]], z, teacher_temp=0.04)

    def patches(z: Views) -> tuple[Tensor, Tensor, Tensor]:
        """4 x 4 patches of each image, of which the lower half is masked."""
        mask = torch.arange(16).expand(len(z[0]) // 16, 16) >= 8
        return z[0].view(*mask.shape, -1)[mask], z[1].detach().view(*mask.shape, -1)[mask], mask

    def ibot(z: Views) -> Tensor:
        student, teacher, mask = patches(z)
        return masked_patch_loss(student, (teacher / 0.04).softmax(dim=1), mask)

    def their_ibot(z: Views) -> Tensor:
        student, teacher, mask = patches(z)
        return IBOTPatchLoss(z[0].shape[1]).double()(teacher, student, mask.view(-1, 4, 4))

    return {
        "simsiam": Pair(
            lambda z: simsiam_loss(z[0], z[1], z[2], z[3]),
            lambda z: 0.5 * (cosine(z[0], z[3].detach()) + cosine(z[1], z[2].detach())),
            views=4,
        ),
        "byol": Pair(
            lambda z: byol_loss(z[0], z[1], z[2].detach(), z[3].detach()),
            lambda z: 4 + 2 * (cosine(z[0], z[3].detach()) + cosine(z[1], z[2].detach())),
            views=4,
        ),
        "dino": Pair(dino, their_dino, views=4),
        "ibot, patches": Pair(ibot, their_ibot),
        "dinov2, KoLeo": Pair(lambda z: koleo_loss(z[0]), lambda z: KoLeoLoss()(z[0])),
    }


def redundancy() -> dict[str, Pair]:
    from lightly import loss as lightly

    from ssltool.methods.barlow import barlow_loss
    from ssltool.methods.empssl import empssl_loss
    from ssltool.methods.frossl import frossl_loss
    from ssltool.methods.mmcr import mmcr_loss
    from ssltool.methods.tico import tico_loss
    from ssltool.methods.vicreg import vicreg_loss
    from ssltool.methods.wmse import wmse_loss

    def unit(z: Views) -> Views:
        """Rows of length 1, which lightly leaves to its caller."""
        return [functional.normalize(view, dim=1) for view in z]

    def mmcr(z: Views) -> Tensor:
        first, second = unit(z)
        return lightly.MMCRLoss(lmda=0.0)(first[:, None], second[:, None])

    def zeros(z: Views) -> Tensor:
        return z[0].new_zeros(z[0].shape[1], z[0].shape[1])

    return {
        "barlow": Pair(lambda z: barlow_loss(*z, 0.005), lambda z: lightly.BarlowTwinsLoss(0.005)(*z)),
        "vicreg": Pair(lambda z: vicreg_loss(*z), lambda z: lightly.VICRegLoss()(*z)),
        "wmse": Pair(
            lambda z: wmse_loss(z, w_size=len(z[0]), eps=0.0, generator=torch.Generator().manual_seed(0)),
            lambda z: lightly.WMSELoss(z[0].shape[1], w_size=len(z[0])).double()(torch.cat(z)),
        ),
        "tico": Pair(
            lambda z: tico_loss(z[0], z[1].detach(), zeros(z)), lambda z: lightly.TiCoLoss()(z[0], z[1].detach())
        ),
        "mmcr": Pair(mmcr_loss, mmcr),
        "frossl": Pair(frossl_loss, lightly.FroSSLLoss()),
        "empssl": Pair(empssl_loss, lambda z: lightly.EMPSSLLoss()(unit(z)), views=4),
    }


def clustering_and_jepa() -> dict[str, Pair]:
    from lightly.loss import LeJEPALoss, SwaVLoss, VISRegLoss

    from ssltool.methods.lejepa import lejepa_loss
    from ssltool.methods.parts.sigreg import unit_directions
    from ssltool.methods.parts.sinkhorn import sinkhorn
    from ssltool.methods.swav import swav_loss
    from ssltool.methods.visreg import visreg_loss

    def swav(z: Views) -> Tensor:
        return swav_loss(z, [sinkhorn(view.detach(), 0.05, 3) for view in z[:2]])

    def directions(z: Views) -> Tensor:
        return unit_directions(z[0].shape[1], SLICES, torch.Generator().manual_seed(0)).to(z[0])

    def theirs(loss: torch.nn.Module, z: Views) -> Tensor:
        with mock.patch("torch.randn", return_value=directions(z)):
            return loss(global_proj=torch.stack(z[:2]), local_proj=torch.stack(z[2:]))

    return {
        "swav": Pair(swav, lambda z: SwaVLoss()(z[:2], z[2:]), views=4),
        "lejepa": Pair(
            lambda z: lejepa_loss(z, directions(z)),
            lambda z: theirs(LeJEPALoss(sigreg_num_vectors=SLICES).double(), z),
            views=4,
        ),
        "visreg": Pair(
            lambda z: visreg_loss(z, directions(z), n_global=2),
            lambda z: theirs(VISRegLoss(num_slices=SLICES), z),
            views=4,
        ),
    }


def embeddings(views: int, rows: int, width: int) -> Views:
    """Views (N, D) of the same images, with gradients."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.arange(1, width + 1, dtype=torch.float64) ** -0.5
    draw = torch.randn(views + 1, rows, width, generator=generator, dtype=torch.float64) * scales
    return [(0.8**0.5 * draw[0] + 0.2**0.5 * draw[view + 1]).requires_grad_() for view in range(views)]


def compared(pair: Pair, rows: int, width: int) -> tuple[float, float, float]:
    """Our value, lightly's, and the relative difference of the gradients."""
    values, gradients = [], []
    for loss in (pair.ours, pair.theirs):
        z = embeddings(pair.views, rows, width)
        value = loss(z)
        values.append(value.item())
        gradients.append(torch.autograd.grad(value, z[0])[0])
    return values[0], values[1], float((gradients[1] - gradients[0]).norm() / gradients[0].norm())


@click.command()
@click.option("--rows", default=256, show_default=True)
@click.option("--width", default=64, show_default=True)
def main(rows: int, width: int) -> None:
    print("| loss | ssltool | lightly | difference of gradients |")
    print("|---|---|---|---|")
    for name, pair in (contrastive() | distillation() | redundancy() | clustering_and_jepa()).items():
        ours, theirs, difference = compared(pair, rows, width)
        print(f"| {name} | {ours:.6g} | {theirs:.6g} | {difference:.1g} |", flush=True)


if __name__ == "__main__":
    main()
