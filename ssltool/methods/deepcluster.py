"""DeepCluster v2: Caron et al., appendix D of arXiv:2006.09882, after "Deep Clustering for Unsupervised Learning of
Visual Features", ECCV 2018, arXiv:1807.05520.

Before each epoch, spherical k-means clusters the embeddings of the previous epoch, once per head. During the epoch each
crop is classified into the cluster of its image, with the centroids as a fixed linear classifier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool import seeds
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import EpochImages, Method, Output, RunFacts
from ssltool.methods.options import MultiCrop, temperature, width
from ssltool.methods.parts.multicrop import forward_by_size, forward_concatenated
from ssltool.methods.parts.prototypes import Prototypes, uniform_loss_warning
from ssltool.models.heads import mlp
from ssltool.reprs.spherical_kmeans import spherical_kmeans
from ssltool.settings import setting
from ssltool.training.distributed import broadcast, gather
from ssltool.training.precision import without_autocast


@without_autocast
def deepcluster_loss(scores: list[list[Tensor]], assignments: Tensor, temperature: float = 0.1) -> Tensor:
    """Cross-entropy with the cluster of each image, averaged over heads, crops and images.

    Args:
        scores: for each of H heads and V crops, the cosines (N, K) with the K centroids.
        assignments: cluster indices (H, N).
        temperature: divides the cosines.

    Raises:
        SSLToolError: if the shapes of scores and assignments do not match.
    """
    rows = {len(crop) for crops in scores for crop in crops}
    if not scores or len(scores) != len(assignments) or rows != {assignments.shape[-1]}:
        raise SSLToolError(
            f"deepcluster_loss expects scores (N, K) of H heads and assignments (H, N); found {len(scores)} heads with "
            f"rows {sorted(rows)}, and assignments {tuple(assignments.shape)}"
        )
    losses = [
        F.cross_entropy(torch.cat(crops) / temperature, target.repeat(len(crops)))
        for crops, target in zip(scores, assignments, strict=True)
    ]
    return torch.stack(losses).mean()


@dataclass(frozen=True)
class DeepClusterOptions(MultiCrop):
    """Options of DeepCluster v2. Defaults follow the paper."""

    dim: int = width(128)
    hidden: int = width(2048, "the projector's hidden layer")
    prototypes: int = setting(3000, "number of clusters per head", minimum=2)
    heads: int = setting(3, "number of independent clusterings", minimum=1, maximum=1000)
    temperature: float = temperature(0.1)
    kmeans_iters: int = setting(10, "iterations of k-means", minimum=1, maximum=100_000)


class DeepCluster(Method):
    """DeepCluster v2. Projector: a hidden layer with BN and a linear layer; then heads of k-means centroids.

    ``bank`` (2, images, D) holds the latest embedding of each large crop, ``filled`` (images,) marks the images that
    have one, and ``assignments`` (heads, images) holds their clusters. Images without an embedding are embedded at the
    start of the epoch that uses them.
    """

    Options = DeepClusterOptions
    compares_images = False
    bank: Tensor
    filled: Tensor
    assignments: Tensor

    def __init__(self, backbone: nn.Module, dim: int, options: DeepClusterOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        o = options
        if run.epoch_images < o.prototypes:
            raise SSLToolError(
                f"--set prototypes={o.prototypes} is more than the {run.epoch_images} images of an epoch; lower it, or "
                "use more images per epoch"
            )
        self.projector = mlp([dim, o.hidden, o.dim])
        self.heads = nn.ModuleList(Prototypes(o.dim, o.prototypes).requires_grad_(False) for _ in range(o.heads))
        self.register_buffer("bank", torch.zeros(2, run.images, o.dim))
        self.register_buffer("filled", torch.zeros(run.images, dtype=torch.bool))
        self.register_buffer("assignments", torch.zeros(o.heads, run.images, dtype=torch.int64))

    def _embed(self, views: list[Tensor]) -> list[Tensor]:
        return [
            F.normalize(z.float(), dim=1)
            for z in forward_concatenated(self.projector, forward_by_size(self.backbone, views))
        ]

    @torch.no_grad()
    def start_epoch(self, images: EpochImages) -> None:
        """Embeds the images of the epoch that have no embedding yet, then clusters all images of the epoch."""
        new = images.rows[~self.filled[images.rows]]
        if len(new):
            for batch in images.batches(new):
                self._update_bank(batch.rows, self._embed(batch.views[:2]))
        o = self.options
        for number, head in enumerate(self.heads):
            generator = seeds.generator(self.run.seed, self.now.epoch, number, seeds.Stream.CLUSTERS)
            rows = self.bank[number % 2][images.rows]  # heads alternate between the crops
            centroids, found = spherical_kmeans(rows, o.prototypes, o.kmeans_iters, generator)
            cast(Prototypes, head).weight.copy_(broadcast(centroids))
            self.assignments[number, images.rows] = broadcast(found)

    @torch.no_grad()
    def _update_bank(self, rows: Tensor, embeddings: list[Tensor]) -> None:
        """Stores the embeddings of the two large crops from all ranks."""
        rows = gather(rows)
        self.bank[:, rows] = torch.stack([gather(z) for z in embeddings[:2]]).to(self.bank.dtype)
        self.filled[rows] = True

    def forward(self, batch: Batch) -> Output:
        z = self._embed(batch.views)
        scores = [forward_concatenated(head, z) for head in self.heads]
        loss = deepcluster_loss(scores, self.assignments[:, batch.rows], self.options.temperature)
        return Output(loss, z[0].detach(), (batch.rows, z[1].detach()))

    def update_buffers(self, output: Output) -> None:
        rows, second = output.for_buffers
        self._update_bank(rows, [output.projection, second])

    def prototype_vectors(self) -> Tensor:
        """Those of the first head."""
        return cast(Prototypes, self.heads[0]).weight.detach()

    def diagnose(self, loss: float) -> str | None:
        remedy = "Try fewer prototypes or a lower lr"
        return uniform_loss_warning(loss, self.options.prototypes, self.now.epoch, remedy)

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (math.log(self.options.prototypes),)
