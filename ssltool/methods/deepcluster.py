"""DeepCluster v2: Caron et al., appendix D of arXiv:2006.09882, after "Deep Clustering for Unsupervised Learning of
Visual Features", ECCV 2018, arXiv:1807.05520.

Before each epoch the embeddings of the last one are clustered by spherical k-means, several times; in the epoch every
crop has to name its image's cluster, with the centroids as a fixed classifier.
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
from ssltool.methods.parts.multicrop import by_size, together
from ssltool.methods.parts.prototypes import Prototypes, stuck_at_uniform
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import agree, gather
from ssltool.training.precision import without_autocast

BLOCK = 65536
"""Rows that are compared with the centroids at a time."""


@torch.no_grad()
@without_autocast
def spherical_kmeans(
    rows: Tensor, count: int, iterations: int = 10, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Clusters unit ``rows`` (N, D) by cosine: ``count`` unit centroids (K, D), and each row's centroid (N,).

    Starts from ``count`` of the rows, drawn by a CPU generator. A centroid that no row is nearest to, or whose rows
    cancel, stays where it is.

    Raises:
        SSLToolError: if there are fewer rows than clusters.
    """
    if len(rows) < count:
        raise SSLToolError(f"{len(rows)} rows cannot make {count} clusters; ask for fewer")
    centroids = rows[torch.randperm(len(rows), generator=generator)[:count].to(rows.device)]
    for _ in range(iterations):
        nearest = _nearest(rows, centroids)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, rows)
        length = sums.norm(dim=1, keepdim=True)
        centroids = torch.where(length > 0, F.normalize(sums, dim=1), centroids)
    return centroids, _nearest(rows, centroids)


def _nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    return torch.cat([(block @ centroids.mT).argmax(dim=1) for block in rows.split(BLOCK)])


@without_autocast
def deepcluster_loss(scores: list[list[Tensor]], assignments: Tensor, temperature: float = 0.1) -> Tensor:
    """Cross-entropy with the cluster of each image, the mean over heads, crops and images.

    Args:
        scores: for each of H heads the cosines of each of V crops with its K centroids, (N, K).
        assignments: the clusters' numbers (H, N).
        temperature: what cosines are divided by.

    Raises:
        SSLToolError: if heads and assignments do not match.
    """
    rows = {len(crop) for crops in scores for crop in crops}
    if not scores or len(scores) != len(assignments) or rows != {assignments.shape[-1]}:
        raise SSLToolError(
            f"deepcluster_loss takes scores (N, K) of H heads and assignments (H, N); found {len(scores)} heads with "
            f"rows {sorted(rows)}, and assignments {tuple(assignments.shape)}"
        )
    losses = [
        F.cross_entropy(torch.cat(crops) / temperature, target.repeat(len(crops)))
        for crops, target in zip(scores, assignments, strict=True)
    ]
    return torch.stack(losses).mean()


@dataclass(frozen=True)
class DeepClusterOptions(MultiCrop):
    """The method's options; the defaults are the paper's."""

    dim: int = width(128)
    hidden: int = width(2048, "the projector's hidden layer")
    prototypes: int = setting(3000, "clusters of each head", minimum=2)
    heads: int = setting(3, "clusterings made side by side", minimum=1)
    temperature: float = temperature(0.1)
    kmeans_iters: int = setting(10, "turns of k-means", minimum=1)


class DeepCluster(Method):
    """Projector: a hidden layer with BN, and a linear one; then heads of centroids, which k-means sets.

    ``bank`` (2, images, D) holds the last embedding of each large crop, ``filled`` (images,) says of which images,
    ``assignments`` (heads, images) their clusters. An image that is new to this run, as in a single pass, is embedded
    when its epoch starts.
    """

    Options = DeepClusterOptions
    bank: Tensor
    filled: Tensor
    assignments: Tensor

    def __init__(self, backbone: nn.Module, dim: int, options: DeepClusterOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        o = options
        if run.epoch_images < o.prototypes:
            raise SSLToolError(
                f"an epoch of {run.epoch_images} images cannot make {o.prototypes} clusters; lower --set prototypes, "
                "or give an epoch more images"
            )
        self.projector = mlp([dim, o.hidden, o.dim])
        self.heads = nn.ModuleList(Prototypes(o.dim, o.prototypes).requires_grad_(False) for _ in range(o.heads))
        self.register_buffer("bank", torch.zeros(2, run.images, o.dim))
        self.register_buffer("filled", torch.zeros(run.images, dtype=torch.bool))
        self.register_buffer("assignments", torch.zeros(o.heads, run.images, dtype=torch.int64))

    def _embed(self, views: list[Tensor]) -> list[Tensor]:
        return [F.normalize(z.float(), dim=1) for z in together(self.projector, by_size(self.backbone, views))]

    @torch.no_grad()
    def start_epoch(self, images: EpochImages) -> None:
        """Embeds the epoch's images that have no embedding yet, and clusters them all."""
        new = images.rows[~self.filled[images.rows]]
        if len(new):
            for batch in images.batches(new):
                self._remember(batch.rows, self._embed(batch.views[:2]))
        o = self.options
        for number, head in enumerate(self.heads):
            generator = seeds.generator(self.run.seed, self.now.epoch, number, seeds.Stream.CLUSTERS)
            rows = self.bank[number % 2][images.rows]  # the heads take turns with the crops
            centroids, found = spherical_kmeans(rows, o.prototypes, o.kmeans_iters, generator)
            cast(Prototypes, head).weight.copy_(agree(centroids))
            self.assignments[number, images.rows] = agree(found)

    @torch.no_grad()
    def _remember(self, rows: Tensor, embeddings: list[Tensor]) -> None:
        """Keeps all ranks' embeddings of the two large crops."""
        rows = gather(rows)
        self.bank[:, rows] = torch.stack([gather(z) for z in embeddings[:2]]).to(self.bank.dtype)
        self.filled[rows] = True

    def forward(self, batch: Batch) -> Output:
        z = self._embed(batch.views)
        scores = [together(head, z) for head in self.heads]
        loss = deepcluster_loss(scores, self.assignments[:, batch.rows], self.options.temperature)
        if self.training:
            self._remember(batch.rows, z)
        return Output(loss, z[0].detach())

    def diagnose(self, loss: float) -> str | None:
        remedy = "Try fewer prototypes or a lower lr"
        return stuck_at_uniform(loss, self.options.prototypes, self.now.epoch, remedy)

    @property
    def collapsed_losses(self) -> tuple[float, ...]:
        return (math.log(self.options.prototypes),)
