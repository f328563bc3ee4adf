"""What the training loop knows of a method: the interface, and what a method may know of its run.

How a method's options are declared and read is in ``options``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.data.views import Recipe
from ssltool.errors import SSLToolError
from ssltool.methods.parts.crops import small_crops, two_views

LARGEST_LOGIT = 88.0
"""exp of more than this overflows float32."""

NEAR = 0.01
"""How close to a value, as a share of it or of 1, a loss counts as being there."""


class Output(NamedTuple):
    """What a forward pass hands the loop: the ``loss``, and the ``projection`` (N, D) that is watched for collapse."""

    loss: Tensor
    projection: Tensor


@dataclass(frozen=True)
class RunFacts:
    """What a method may know of its run: ``images`` and ``classes`` of the data, the ``epoch_images`` that the smallest
    epoch draws from, the side of its views in pixels, the ``batch_size`` over all ranks, the ``steps`` of an epoch, the
    ``epochs``, the ``seed``.

    ``second_backbone()`` makes another backbone and says its width: of the make of ``options.teacher``'s, where there
    is such an option, else of the first one's.
    """

    images: int
    classes: int
    epoch_images: int
    image_size: int
    batch_size: int
    steps: int
    epochs: int
    seed: int
    second_backbone: Callable[[], tuple[nn.Module, int]]


class Now(NamedTuple):
    """Where the run stands: epochs and steps completed before the current step."""

    epoch: int = 0
    step: int = 0


class EpochImages(NamedTuple):
    """The images of the epoch that starts: their distinct ``rows``, and ``batches(rows)``, which makes views of any of
    them, for each rank its share of every batch; the last batch is filled up from the beginning."""

    rows: Tensor
    batches: Callable[[Tensor], Iterator[Batch]]


class Method(nn.Module):
    """A way of training. One subclass a paper.

    A subclass names its options' class, builds its heads in ``__init__`` after calling ``super().__init__`` with the
    backbone, and implements ``forward(batch) -> Output``. Everything else has a default. The loop calls, per epoch,
    ``start_epoch`` and ``diagnose``; per step ``forward``, ``before_update``, the optimiser, ``after_step``. The
    monitor reads ``outputs`` and asks for ``suspects``. All state is in parameters and buffers, so that a checkpoint
    holds it; ``now`` is set before each step.
    """

    Options: ClassVar[type[Any]]
    watched: ClassVar[tuple[str, ...]] = ("backbone", "projector")
    """Layers that shall not collapse, of those there are."""

    uses_labels: ClassVar[bool] = False
    """Whether the batch's labels are shown to the method; all others are given -1."""

    smallest_batch: int = 2
    """Images that a step needs at least."""

    projector: nn.Module
    predictor: nn.Module

    def __init__(self, backbone: nn.Module, dim: int, options: Any, run: RunFacts) -> None:
        super().__init__()
        self.backbone = backbone
        self.backbone_dim = dim
        self.options = options
        self.run = run
        self.now = Now()

    @property
    def progress(self) -> float:
        """How much of the training is done, from 0 to 1."""
        return self.now.step / (self.run.epochs * self.run.steps)

    def view_recipes(self, base: Recipe) -> list[Recipe]:
        """How each view of an image is made: two by the run's recipe, and what the options ask for beside."""
        return two_views(base, self.options) + small_crops(base, self.options, self.run.image_size)

    def forward(self, batch: Batch) -> Output:
        """The loss of a batch."""
        raise NotImplementedError

    def param_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups: the predictor, if there is one that learns, and everything else.

        ``fixed_lr`` keeps a group's rate constant; ``is_encoder`` marks what ``--n-warmup-steps`` freezes; ``decays``
        says whether there is weight decay.
        """
        predictor = trainable(self.predictor) if isinstance(getattr(self, "predictor", None), nn.Module) else []
        apart = {id(p) for p in predictor}
        encoder = [p for p in trainable(self) if id(p) not in apart]
        groups = [{"params": encoder, "fixed_lr": False, "is_encoder": True, "decays": True}]
        if predictor:
            fixed = getattr(self.options, "fix_pred_lr", False)
            groups.append({"params": predictor, "fixed_lr": fixed, "is_encoder": False, "decays": True})
        return groups

    def start_epoch(self, images: EpochImages) -> None:
        """Called before the first step of an epoch, but not again when a run goes on within it."""

    def before_update(self) -> None:
        """Called when the gradients are there and the optimiser has not yet used them."""

    def after_step(self) -> None:
        """Called after each optimiser step."""

    def warnings(self) -> list[str]:
        """What about the settings is likely to go wrong, one sentence each."""
        temperatures = {
            k: v for k, v in dataclasses.asdict(self.options).items() if k.endswith(("temp", "temperature"))
        }
        return [
            f"{name}={value} makes logits of up to {1 / value:.0f}, whose exp overflows float32; logarithms keep the "
            "loss finite, but all its weight is on one term"
            for name, value in temperatures.items()
            if 1 / value > LARGEST_LOGIT
        ]

    def diagnose(self, loss: float) -> str | None:
        """What an epoch's mean loss says is going wrong, if anything."""
        return None

    def causes(self) -> dict[str, bool]:
        """What lets outputs become the same, a clause each, and whether the settings have it."""
        return {}

    @property
    def collapsed_losses(self) -> tuple[float, ...]:
        """The losses of outputs that are the same for all images."""
        return ()

    def suspects(self, loss: float) -> list[str]:
        """Why the outputs may be collapsing, a clause each: what the settings have of ``causes``, and what an epoch's
        mean loss says."""
        found = [cause for cause, present in self.causes().items() if present]
        if at := [value for value in self.collapsed_losses if is_near(loss, value)]:
            found.append(f"the loss, {loss:.4g}, is that of outputs which are the same for all images ({at[0]:.4g})")
        return found

    def outputs(self, images: Tensor, last: str = "predictor") -> dict[str, Tensor]:
        """What each layer there is makes (N, D) of ``images`` (N, 3, S, S) in one pass: ``backbone``, ``projector``,
        ``predictor``, up to ``last``."""
        out = self.backbone(images)
        found = {"backbone": out}
        for name in ("projector", "predictor"):
            if last in found or isinstance(getattr(self, name, nn.Identity()), nn.Identity):
                break
            found[name] = out = getattr(self, name)(out)
        return found

    def embed(self, images: Tensor, layer: str) -> Tensor:
        """The output (N, D) of ``backbone``, ``projector`` or ``predictor`` for ``images`` (N, 3, S, S).

        Raises:
            SSLToolError: if the method has no such layer.
        """
        found = self.outputs(images, layer)
        if layer not in found:
            raise SSLToolError(f"--layer {layer}: this model has no {layer}")
        return found[layer]

    def directions(self, layer: str) -> int:
        """The largest rank that the output of ``layer`` can have: its width, or the inputs of its last linear part."""
        if layer == "backbone":
            return self.backbone_dim
        linear = [part for part in getattr(self, layer).modules() if isinstance(part, nn.Linear)]
        return min(linear[-1].in_features, linear[-1].out_features)


def is_near(loss: float, value: float) -> bool:
    """Whether a loss is at ``value``, but for ``NEAR``."""
    return abs(loss - value) <= NEAR * max(1.0, abs(value))


def trainable(*modules: nn.Module) -> list[nn.Parameter]:
    """The parameters of ``modules`` that take gradients."""
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def same_shapes(name: str, *tensors: Tensor) -> None:
    """Refuses the arguments of a loss unless they are (N, D) tensors of one shape, with rows.

    Raises:
        SSLToolError: with the shapes that were found.
    """
    if not of_one_shape(*tensors):
        found = sorted({tuple(t.shape) for t in tensors})
        raise SSLToolError(f"{name} takes {len(tensors)} (N, D) tensors of one shape; found {found}")


def of_one_shape(*tensors: Tensor) -> bool:
    """Whether all are (N, D), of one shape and with rows."""
    return len({t.shape for t in tensors}) == 1 and tensors[0].dim() == 2 and len(tensors[0]) > 0
