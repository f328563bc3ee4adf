"""NNSiam: SimSiam with nearest neighbours as targets, from the collapse paper's code (arXiv:2209.15007).

The target of a view is the nearest neighbour of its projection in a queue of earlier projections. All rows of the queue
are L2-normalised. The released code mixes normalised and other rows, so its Euclidean neighbours depend on their norms.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ssltool.methods.base import Output, RunFacts
from ssltool.methods.options import Ineffective, queue_size
from ssltool.methods.parts.queue import Queue, queue_warnings
from ssltool.methods.simsiam import SimSiam, SimSiamOptions


@dataclass(frozen=True)
class NNSiamOptions(SimSiamOptions):
    """Options of SimSiam, and the size of the queue."""

    queue: int = queue_size(25600)

    def ineffective(self) -> list[Ineffective]:
        return [*super().ineffective(), Ineffective(("stop_grad",), True, "nnsiam, whose targets are always detached")]


class NNSiam(SimSiam):
    """SimSiam with a queue of projections. The projections of the first view of each batch enter the queue."""

    Options = NNSiamOptions

    def __init__(self, backbone: nn.Module, dim: int, options: NNSiamOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.queue = Queue(options.queue, options.dim, run.batch_size)

    def targets(self, projections: list[Tensor]) -> list[Tensor]:
        """The nearest neighbour of each projection, before the batch enters the queue."""
        return [self.queue.nearest(z) for z in projections]

    def update_buffers(self, output: Output) -> None:
        self.queue.add(output.projection)

    def warnings(self) -> list[str]:
        return super().warnings() + queue_warnings(self.options, self.run)
