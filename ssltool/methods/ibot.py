"""iBOT: Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer", ICLR 2022, arXiv:2111.07832.

DINO with masked patches: the student sees mask tokens instead of some patches of the large crops, and also predicts the
teacher's distribution at these patches. Class tokens and patches have the same head. Without masks (``--set mask_p=0``)
it is DINO. Without centring (``--set centering=none``) the network collapses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError, UsageError
from ssltool.methods.base import Output, RunFacts
from ssltool.methods.options import Ineffective, local_crops, temperature
from ssltool.methods.parts.block_masks import block_masks, masked_count
from ssltool.methods.parts.masks import drawn_masks
from ssltool.methods.parts.matching import multicrop_cross_entropy
from ssltool.methods.parts.multicrop import forward_by_size, forward_concatenated
from ssltool.methods.parts.prototype_distillation import (
    PrototypeDistillation,
    PrototypeOptions,
    UnitPrototypes,
    prototype_count,
)
from ssltool.methods.parts.self_distillation import projection_head
from ssltool.methods.parts.sinkhorn import sinkhorn
from ssltool.models.backbones import last_width, masked_tokens, patch_of, token_layout
from ssltool.models.family import TokenLayout
from ssltool.models.masking import NOTHING, Masking
from ssltool.settings import setting
from ssltool.training.precision import without_autocast

CLASS_HEAD = ("projector", "prototypes")


@without_autocast
def masked_patch_loss(student: Tensor, targets: Tensor, masks: Tensor, student_temp: float = 0.1) -> Tensor:
    """L_MIM, Eq. 2 of arXiv:2111.07832; ln K if the student's output is uniform and every crop has masked patches.

    The mean over crops of the mean over a crop's masked patches of -P_teacher . log softmax(s / tau_s); a crop without
    masked patches counts as 0, as in the released code.

    Args:
        student: logits s (M, K) of the M masked patches, in the order of ``masks``.
        targets: P_teacher (M, K), the teacher's probabilities for the same patches; detached.
        masks: (N, P) bool with M true elements, for N crops.
        student_temp: tau_s.

    Raises:
        SSLToolError: if there is not one row of logits and of targets for each masked patch.
    """
    count = int(masks.sum()) if masks.dim() == 2 else -1
    if student.dim() != 2 or student.shape != targets.shape or len(student) != count:
        raise SSLToolError(
            "masked_patch_loss expects masks (N, P) and logits and targets (M, K) of the M masked patches; found "
            f"{tuple(masks.shape)} with M = {int(masks.sum())}, {tuple(student.shape)} and {tuple(targets.shape)}"
        )
    losses = -(targets.detach() * (student / student_temp).log_softmax(dim=1)).sum(dim=1)
    weights = (masks.to(losses.dtype) / masks.sum(dim=1, keepdim=True).clamp(min=1))[masks]
    return (weights * losses).sum() / len(masks)


def centering(default: str) -> str:
    """How the teacher's logits are kept from one output that dominates."""
    found: str = setting(
        default,
        "the teacher's logits: less their running mean, assigned equally to prototypes, or as they are: it collapses",
        choices=("ema", "sinkhorn", "none"),
    )
    return found


@dataclass(frozen=True)
class IBOTOptions(PrototypeOptions):
    """Options of iBOT. Defaults follow the released command for ViT-S, except for its views (``asymmetric``)."""

    prototypes: int = prototype_count(8192)
    teacher_temp: float = temperature(0.07, "the teacher's logits are")
    warmup_teacher_temp_epochs: int = setting(
        30, "epochs over which the teacher's temperature increases to teacher_temp", minimum=0
    )
    norm_last_layer: bool = setting(False, "keep the prototypes at length 1; otherwise their lengths are trained")
    local_crops: int = local_crops(10)
    centering: str = centering("ema")
    mask_p: float = setting(0.5, "share of the large crops that are masked; 0: none", minimum=0, maximum=1)
    mask_min: float = setting(0.1, "smallest share of a crop's patches that is masked", minimum=0, maximum=1)
    mask_max: float = setting(0.5, "largest share of a crop's patches that is masked", minimum=0, maximum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_min > self.mask_max:
            raise UsageError(f"--set mask_min={self.mask_min} is more than mask_max={self.mask_max}; lower it")

    def ineffective(self) -> list[Ineffective]:
        return [
            *super().ineffective(),
            Ineffective(("center_momentum",), self.centering != "ema", f"centering={self.centering}"),
            Ineffective(("mask_min", "mask_max"), self.mask_p == 0, "mask_p=0"),
        ]


class Distilled(NamedTuple):
    """The ``output`` of a forward pass, and the student's ``tokens`` (N, T, D) of each large crop."""

    output: Output
    tokens: list[Tensor]


class IBOT(PrototypeDistillation):
    """iBOT. Projector: three layers with GELU, without BN; then L2-normalised prototypes. The teacher has the same
    modules. ``mask_token`` (D,) stands for masked patches."""

    Options = IBOTOptions
    masks_patches = True
    PATCH_HEAD: ClassVar[tuple[str, str]] = CLASS_HEAD
    """The names of the modules that make the logits of patches."""

    patch_center: Tensor

    def __init__(self, backbone: nn.Module, dim: int, options: IBOTOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        o = options
        self.compares_images = o.centering == "sinkhorn"
        for projector, prototypes in dict.fromkeys((CLASS_HEAD, self.PATCH_HEAD)):
            setattr(self, projector, projection_head([dim, o.hidden, o.hidden, o.dim]))
            setattr(self, prototypes, self.new_prototypes())
        self._layout = token_layout(backbone) or TokenLayout()
        self.mask_token = nn.Parameter(torch.zeros(last_width(backbone, dim)), requires_grad=o.mask_p > 0)
        self.make_teacher()
        if o.centering == "ema":
            self.register_buffer("center", torch.zeros(o.prototypes))
            self.register_buffer("patch_center", torch.zeros(o.prototypes))

    def forward(self, batch: Batch) -> Output:
        return self.distilled(batch).output

    def distilled(self, batch: Batch) -> Distilled:
        """The cross-entropies of class tokens across crops, and of masked patches within the large crops."""
        o = self.options
        large, small = batch.views[:2], batch.views[2:]
        masks = self.masks(batch)
        tokens = self._tokens(self.backbone, large, Masking(masks, self.mask_token) if o.mask_p else NOTHING)
        crops = [*tokens, *forward_by_size(lambda views: masked_tokens(self.backbone, views), small)]
        z = [rows.float() for rows in forward_concatenated(self.projector, [self.of_image(crop) for crop in crops])]
        student = forward_concatenated(self.prototypes, z)
        with torch.no_grad():
            seen = self._tokens(self.teacher["backbone"], large)
            logits = self.teacher["prototypes"](self.teacher["projector"](self.of_image(torch.cat(seen))))
            targets = self._targets(logits, "center").chunk(2)
        loss = multicrop_cross_entropy([crop / o.student_temp for crop in student], list(targets))
        means = [logits.mean(dim=0, keepdim=True)] if o.centering == "ema" else []
        if o.mask_p:
            patches, patch_means = self._patch_loss(torch.cat(tokens), torch.cat(seen), masks)
            loss, means = loss + patches, [*means, *patch_means]
        return Distilled(Output(loss, z[0].detach(), tuple(means)), tokens)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the masks depend on the step
    def masks(self, batch: Batch) -> Tensor:
        """Which patches of the two large crops are masked, (2 N, P): the first crop of each image, then the second."""
        o, side = self.options, batch.views[0].shape[-1] // (patch_of(self.backbone) or 1)

        def draw(images: int, generator: torch.Generator) -> tuple[Tensor, ...]:
            made = block_masks(2 * images, (side, side), o.mask_p, (o.mask_min, o.mask_max), generator)
            return made.chunk(2)

        return torch.cat(drawn_masks(self, batch, draw))

    def _tokens(self, backbone: nn.Module, views: list[Tensor], masking: Masking = NOTHING) -> list[Tensor]:
        """The tokens (N, T, D) of each of the ``views``, which share a forward pass."""
        return forward_concatenated(lambda images: masked_tokens(backbone, images, masking), views)

    def of_image(self, tokens: Tensor) -> Tensor:
        """The class token (N, D) of ``tokens`` (N, T, D); the mean of all if the network has none."""
        return tokens[:, 0] if self._layout.class_token else tokens.mean(dim=1)

    def of_patches(self, tokens: Tensor) -> Tensor:
        """The patch tokens (N, P, D) of ``tokens`` (N, T, D)."""
        return tokens[:, self._layout.prefix :]

    def _targets(self, logits: Tensor, center: str) -> Tensor:
        """The teacher's probabilities (N, K) from its logits, centred as the options say."""
        temp, how = self.teacher_temp_tensor(), self.options.centering
        if how == "sinkhorn":
            return sinkhorn(logits, temp, over_ranks=True)
        centred = logits - getattr(self, center) if how == "ema" else logits
        return (centred / temp).softmax(dim=1)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the number of masked patches differs between steps
    def _patch_loss(self, tokens: Tensor, seen: Tensor, masks: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The loss of the masked patches, from the ``tokens`` (2 N, T, D) of the student and those ``seen`` by the
        teacher, and for the centre the mean (1, K) of the teacher's logits over all patches."""
        projector, prototypes = (getattr(self, name) for name in self.PATCH_HEAD)
        student = prototypes(projector(self.of_patches(tokens)[masks]))
        with torch.no_grad():
            z = self.teacher[self.PATCH_HEAD[0]](self.of_patches(seen))
            last = cast(UnitPrototypes, self.teacher[self.PATCH_HEAD[1]])
            targets = self._targets(last(z[masks]), "patch_center")
            means = [last.mean(z.flatten(0, 1))] if self.options.centering == "ema" else []
        return masked_patch_loss(student, targets, masks, self.options.student_temp), means

    def update_buffers(self, output: Output) -> None:
        for name, means in zip(("center", "patch_center"), output.for_buffers, strict=False):
            self.update_center(getattr(self, name), means)

    def before_update(self) -> None:
        super().before_update()
        if self.now.epoch < self.options.freeze:
            getattr(self, self.PATCH_HEAD[1]).zero_grad()

    @property
    def cross_entropies(self) -> float:
        crops = 2 * self.run.batch_size
        return 1.0 + masked_count(crops, self.options.mask_p) / crops

    def collapse_causes(self) -> dict[str, bool]:
        o = self.options
        return super().collapse_causes() | {
            "the teacher is not centred (centering=none)": o.centering == "none",
            "the centre is never updated (center_momentum=1)": o.centering == "ema" and o.center_momentum == 1,
        }
