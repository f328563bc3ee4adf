"""The networks of ``collapse --layers``, and one pass of images through all of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ssltool.config import LAYERS
from ssltool.data.images import ImageSet
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import Preprocessing
from ssltool.diagnosis.layer_sums import LayerSums, MeasuredLayer, on_exact_device
from ssltool.diagnosis.metrics.of_two_files import CrossMoments
from ssltool.diagnosis.patch_sums import PatchSums
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method
from ssltool.models.blocks import BlockOutputs
from ssltool.reprs.nonfinite import all_finite
from ssltool.training.launch import worker_count
from ssltool.training.progress import Progress
from ssltool.training.ranks import ALONE, Ranks


@dataclass
class Network:
    """A network in the pass: what images are made its input, the outputs of its layers, and their sums.

    Attributes:
        name: what messages call it.
        references: networks that each layer is compared with, by the name of the comparison.
        patches: the patches of each block of a transformer.
    """

    name: str
    method: Method
    preprocessing: Preprocessing
    outputs: BlockOutputs
    references: dict[str, Network] = field(default_factory=dict)
    sums: dict[str, LayerSums] = field(default_factory=dict)
    patches: dict[str, PatchSums] = field(default_factory=dict)
    moments: dict[tuple[str, str], CrossMoments] = field(default_factory=dict)
    measured: dict[str, MeasuredLayer] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        method: Method,
        preprocessing: Preprocessing,
        images: ImageSet,
        device: torch.device,
        like: Network | None = None,
    ) -> Network:
        """The network ``method``, in eval mode on ``device``, for a pass of ``images``; ``like`` is the network that it
        is a reference for.

        Raises:
            SSLToolError: if it does not take images of this size.
        """
        outputs = BlockOutputs.of(method, preprocessing.size, device, None if like is None else like.outputs)
        network = cls(name, method, preprocessing, outputs)
        for layer in outputs.layers:
            network.sums[layer] = LayerSums(layer, method.max_rank(layer) if layer in LAYERS else None)
            if outputs.pooled is not None and layer not in LAYERS:
                network.patches[layer] = PatchSums(len(images))
        return network

    def compare(self, with_: str, reference: Network) -> None:
        """Compares each layer that both have, in the pass."""
        self.references[with_] = reference
        for layer in self.sums.keys() & reference.sums.keys():
            self.moments[with_, layer] = CrossMoments()

    def cka(self, with_: str, layer: str) -> float | None:
        """Linear CKA of a layer and that of a reference; None if there is no such comparison."""
        if (with_, layer) not in self.moments:
            return None
        reference = self.references[with_].measured[layer]
        return self.moments[with_, layer].cka(self.measured[layer].own_moments, reference.own_moments)

    def add(self, images: Tensor) -> dict[str, Tensor]:
        """The rows of each layer for a batch of images, which are added to the sums."""
        found = {}
        for layer, out in self.outputs(images, self._add_patches).items():
            found[layer] = self._finite(layer, on_exact_device(out.float()))
            self.sums[layer].update(found[layer])
        return found

    def _add_patches(self, layer: str, patches: Tensor) -> None:
        self.patches[layer].update(self._finite(layer, on_exact_device(patches.float())))

    def _finite(self, layer: str, out: Tensor) -> Tensor:
        if not all_finite(out):
            raise SSLToolError(
                f"{self.name}: {layer} gives NaN or infinite values; its weights are finite; use an earlier checkpoint"
            )
        return out

    def merge_ranks(self, ranks: Ranks) -> None:
        """Gives rank 0 the sums of all ranks, one layer at a time."""
        for layer, sums in self.sums.items():
            sums.flush()
            self.sums[layer] = ranks.merged(sums, _merged)
        for layer in self.patches:
            self.patches[layer] = ranks.merged(self.patches[layer], _merged)
        for key in sorted(self.moments):
            self.moments[key] = ranks.merged(self.moments[key], _merged)

    def measure(self) -> None:
        """Computes the metrics of all images."""
        for layer, sums in self.sums.items():
            found = sums.measured()
            more = self.patches[layer].metrics() if layer in self.patches else {}
            self.measured[layer] = dataclasses.replace(found, metrics=found.metrics | more)


S = TypeVar("S", LayerSums, PatchSums, CrossMoments)


def _merged(sums: S, others: S) -> S:
    sums.merge(others)  # type: ignore[arg-type]
    return sums


@torch.inference_mode()
def pass_images(
    networks: Sequence[Network],
    images: ImageSet,
    batch_size: int,
    device: torch.device,
    workers: int | None,
    ranks: Ranks = ALONE,
) -> None:
    """Passes the images once through all networks, each rank its part of the batches. Rank 0 then has the sums.

    Raises:
        SSLToolError: if an image cannot be decoded, or an output is not finite.
    """
    part = ranks.span(-(-len(images) // batch_size))
    rows = np.arange(part.start * batch_size, min(part.stop * batch_size, len(images)))
    for patches in (patches for network in networks for patches in network.patches.values()):
        patches.begin(part.start * batch_size)
    with ranks.same_errors():
        if len(rows):
            _pass(networks, images, rows, batch_size, device, workers)
    for network in networks:
        network.merge_ranks(ranks)


def _pass(
    networks: Sequence[Network],
    images: ImageSet,
    rows: np.ndarray,
    batch_size: int,
    device: torch.device,
    workers: int | None,
) -> None:
    """Passes the images ``rows`` through all networks."""
    transforms = list(dict.fromkeys(network.preprocessing for network in networks))
    steps = -(-len(rows) // batch_size)
    with contextlib.ExitStack() as stack:
        count = worker_count(workers)
        loaders = [stack.enter_context(contextlib.closing(Loader(images, p, device, count))) for p in transforms]
        progress = stack.enter_context(contextlib.closing(Progress("images", steps, every=max(1, steps // 10))))
        for batches in zip(*(loader.evaluate(batch_size, rows) for loader in loaders), strict=True):
            views = {
                transform: batch.views[0].contiguous(memory_format=torch.channels_last)
                for transform, batch in zip(transforms, batches, strict=True)
            }
            _add(networks, views)
            progress.update(len(batches[0].views[0]))


def _add(networks: Sequence[Network], views: dict[Preprocessing, Tensor]) -> None:
    """Adds one batch to the sums of all networks and of all comparisons."""
    rows = {id(network): network.add(views[network.preprocessing]) for network in networks}
    for network in networks:
        for (with_, layer), moments in network.moments.items():
            reference = rows[id(network.references[with_])]
            moments.update(rows[id(network)][layer].double(), reference[layer].double())
