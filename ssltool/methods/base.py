"""The interface between a method and the training loop, and the facts about the run that a method can read.

Method options are declared and parsed in ``options``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.data.views import Recipe
from ssltool.diagnosis.alarms import constant_output_causes
from ssltool.errors import SSLToolError
from ssltool.methods.options import MethodOptions
from ssltool.methods.parts.crops import large_views, small_crops
from ssltool.models.backbones import patch_of

LARGEST_LOGIT = 88.0
"""exp of a larger value overflows float32."""


class Output(NamedTuple):
    """The result of a forward pass: the ``loss``, the ``projection`` (N, D) that is monitored for collapse, and
    ``for_buffers``, tensors (N, ...) that ``Method.update_buffers`` needs in addition. ``terms`` are those of
    regularisers; a method has none."""

    loss: Tensor
    projection: Tensor
    for_buffers: tuple[Tensor, ...] = ()
    terms: tuple[Tensor, ...] = ()

    @property
    def objective(self) -> Tensor:
        """What is minimised: the sum of the loss and the terms."""
        return torch.stack([self.loss, *self.terms]).sum() if self.terms else self.loss


@dataclass(frozen=True)
class RunFacts:
    """Facts about the run: number of ``images`` and ``classes``, ``epoch_images`` of the smallest epoch, ``image_size``
    (side of the views in pixels), ``batch_size`` over all ranks, ``steps`` per epoch, ``epochs``, ``seed``.

    ``second_backbone()`` builds another backbone and returns it with its output width. It has the architecture of
    ``options.teacher`` if there is one, otherwise that of the first backbone.
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
    """The position in the run: epochs and steps completed before the current step."""

    epoch: int = 0
    step: int = 0


class EpochImages(NamedTuple):
    """The images of an epoch: their distinct ``rows``, and ``batches(rows)``, which yields augmented batches of rows.

    Each rank gets its share of every batch; the last batch is padded with the first rows.
    """

    rows: Tensor
    batches: Callable[[Tensor], Iterator[Batch]]


class Method(nn.Module):
    """Base class of pretraining methods; one subclass per paper.

    A subclass sets ``Options``, calls ``super().__init__`` with the backbone, builds its heads in ``__init__``, and
    implements ``forward(batch) -> Output``. Everything else has a default. Per epoch the training loop calls
    ``start_epoch`` and ``diagnose``; per step it calls ``forward``, ``update_buffers``, ``before_update``, the
    optimiser and ``after_step``. The collapse monitor calls ``outputs`` and ``probable_causes``. All state must be in
    parameters and buffers, so that checkpoints contain it. The loop sets ``now`` before each step.
    """

    Options: ClassVar[type[Any]] = MethodOptions
    monitored_layers: ClassVar[tuple[str, ...]] = ("backbone", "projector")
    """Layers that the collapse monitor measures, if the method has them."""

    uses_labels: ClassVar[bool] = False
    """Whether ``forward`` receives the labels of the batch; otherwise they are all -1."""

    masks_patches: ClassVar[bool] = False
    """Whether the method masks patches, for which the backbone must be a ViT; see ``models.masking``."""

    compares_positions: ClassVar[bool] = False
    """Whether the method uses the ``backbones.output_and_positions`` of the views."""

    compares_images: bool = True
    """Whether the loss of an image depends on the other images of its batch, apart from batch norm. If not, the loss is
    a mean over the images, and ``--accumulate`` can train on a batch in parts."""

    min_batch_size: int = 2
    """The smallest number of images in a step."""

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
    def measured_layers(self) -> tuple[str, ...]:
        """The monitored layers that the method has."""
        names = self.monitored_layers
        return tuple(name for name in names if not isinstance(getattr(self, name, nn.Identity()), nn.Identity))

    @property
    def progress(self) -> float:
        """The completed fraction of the training, from 0 to 1."""
        return self.now.step / (self.run.epochs * self.run.steps)

    def view_recipes(self, base: Recipe) -> list[Recipe]:
        """One recipe per view of an image: the large views, and the small crops that the options request."""
        patch = patch_of(self.backbone)
        return large_views(base, self.options) + small_crops(base, self.options, self.run.image_size, patch)

    def forward(self, batch: Batch) -> Output:
        """The loss of a batch. What changes buffers belongs into ``update_buffers``."""
        raise NotImplementedError

    def update_buffers(self, output: Output) -> None:
        """Called once in each training step, after the backward pass, with the output for the whole batch of this rank:
        updates queues, centres and running means."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Optimiser parameter groups: the trainable predictor, if any, and all other trainable parameters.

        ``fixed_lr`` keeps the learning rate of a group constant, ``is_encoder`` marks the parameters that
        ``--n-warmup-steps`` freezes, and ``decays`` enables weight decay.
        """
        predictor = (
            trainable_parameters(self.predictor) if isinstance(getattr(self, "predictor", None), nn.Module) else []
        )
        predictor_ids = {id(p) for p in predictor}
        encoder = [p for p in trainable_parameters(self) if id(p) not in predictor_ids]
        groups = [{"params": encoder, "fixed_lr": False, "is_encoder": True, "decays": True}]
        if predictor:
            fixed = getattr(self.options, "fix_pred_lr", False)
            groups.append({"params": predictor, "fixed_lr": fixed, "is_encoder": False, "decays": True})
        return groups

    def start_epoch(self, images: EpochImages) -> None:
        """Called before the first step of an epoch. Not called again when a run resumes within an epoch."""

    def before_update(self) -> None:
        """Called after the backward pass and before the optimiser step."""

    def after_step(self) -> None:
        """Called after each optimiser step."""

    def warnings(self) -> list[str]:
        """Warnings about settings that are likely to fail, one sentence each."""
        temperatures = {
            k: v for k, v in dataclasses.asdict(self.options).items() if k.endswith(("temp", "temperature"))
        }
        return [
            f"{name}={value} gives logits of up to {1 / value:.0f}, whose exp overflows float32; the loss stays "
            "finite, but a single term dominates it"
            for name, value in temperatures.items()
            if 1 / value > LARGEST_LOGIT
        ]

    def diagnose(self, loss: float) -> str | None:
        """A warning about the mean ``loss`` of an epoch, or None."""
        return None

    def collapse_causes(self) -> dict[str, bool]:
        """Known causes of collapse, one clause each, and whether the settings have them."""
        return {}

    def prototype_vectors(self) -> Tensor | None:
        """The prototypes (K, D) to the nearest of which projections are assigned by their cosine; None if the method
        has none."""
        layer = getattr(self, "prototypes", None)
        weight = getattr(layer, "weight", None)
        return weight.detach() if isinstance(weight, Tensor) else None

    def teacher_pair(self) -> tuple[list[nn.Module], list[nn.Module]] | None:
        """The modules of the student and of its momentum teacher, one by one; None if the method has none."""
        return None

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        """The values of the loss if the output is the same for all images."""
        return ()

    def probable_causes(self, loss: float) -> list[str]:
        """Probable causes of a collapse, one clause each, from the settings and the mean ``loss`` of an epoch."""
        found = [cause for cause, present in self.collapse_causes().items() if present]
        return found + constant_output_causes(loss, self.constant_output_losses)

    def outputs(self, images: Tensor, last: str = "predictor") -> dict[str, Tensor]:
        """The outputs (N, D) of ``backbone``, ``projector`` and ``predictor``, up to ``last``, for ``images``
        (N, 3, S, S), in one forward pass. Layers that the method does not have are left out."""
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
            SSLToolError: if the method does not have this layer.
        """
        found = self.outputs(images, layer)
        if layer not in found:
            raise SSLToolError(f"--layer {layer}: this model has no {layer}; it has {', '.join(found)}")
        return found[layer]

    def max_rank(self, layer: str) -> int:
        """Largest possible rank of the output of ``layer``: the backbone's width, or the smaller width of the last
        linear layer of a head."""
        if layer == "backbone":
            return self.backbone_dim
        linear = [part for part in getattr(self, layer).modules() if isinstance(part, nn.Linear)]
        return min(linear[-1].in_features, linear[-1].out_features)


def trainable_parameters(*modules: nn.Module) -> list[nn.Parameter]:
    """The parameters of ``modules`` that require gradients."""
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def check_same_shape(name: str, *tensors: Tensor) -> None:
    """Checks that the arguments of the loss ``name`` are (N, D) tensors of the same shape, N at least 1.

    Raises:
        SSLToolError: if they are not.
    """
    if not have_same_shape(*tensors):
        found = sorted({tuple(t.shape) for t in tensors})
        raise SSLToolError(f"{name} expects {len(tensors)} (N, D) tensors of the same shape; found {found}")


def have_same_shape(*tensors: Tensor) -> bool:
    """Whether all tensors are (N, D), N at least 1, and of the same shape."""
    return len({t.shape for t in tensors}) == 1 and tensors[0].dim() == 2 and len(tensors[0]) > 0
