"""DINOv2: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024, arXiv:2304.07193.

iBOT with a separate head for patches, Sinkhorn-Knopp instead of the centre, and KoLeo, which keeps the class tokens of
a batch apart. ``--set gram=1`` adds the Gram anchoring of DINOv3 (arXiv:2508.10104): from ``gram_start`` on, the
similarities between patches are kept close to those of the teacher at that time.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.methods.base import Output, RunFacts
from ssltool.methods.ibot import IBOT, IBOTOptions, centering
from ssltool.methods.options import Ineffective, local_crops, momentum, width
from ssltool.methods.parts.gram import gram_loss
from ssltool.methods.parts.koleo import koleo_loss
from ssltool.methods.parts.prototype_distillation import prototype_count
from ssltool.models.backbones import patch_tokens
from ssltool.settings import setting
from ssltool.training.distributed import gather


@dataclass(frozen=True)
class DINOv2Options(IBOTOptions):
    """Options of DINOv2. Defaults follow the released ViT-L/14 configuration, except for its views."""

    dim: int = width(384, "the projection before the prototypes")
    prototypes: int = prototype_count(131072)
    momentum: float = momentum(0.994)
    clip_grad: float = setting(
        3.0, "maximum gradient norm of the backbone and of each head; 0 disables clipping", minimum=0
    )
    local_crops: int = local_crops(8)
    centering: str = centering("sinkhorn")
    koleo: float = setting(0.1, "weight of KoLeo, which keeps class tokens apart", minimum=0)
    gram: float = setting(0.0, "weight of DINOv3's Gram anchoring; 0: none", minimum=0)
    gram_start: float = setting(
        0.8, "share of the training after which Gram anchoring begins, to the teacher of then", minimum=0, maximum=1
    )

    def ineffective(self) -> list[Ineffective]:
        return [*super().ineffective(), Ineffective(("gram_start",), self.gram == 0, "gram=0")]


class DINOv2(IBOT):
    """DINOv2. The heads are those of iBOT, one for class tokens and one for patches. ``gram_teacher`` is a copy of the
    teacher's backbone."""

    Options = DINOv2Options
    TEACHER_MODULES = ("backbone", "projector", "prototypes", "patch_projector", "patch_prototypes")
    PATCH_HEAD = ("patch_projector", "patch_prototypes")

    def __init__(self, backbone: nn.Module, dim: int, options: DINOv2Options, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.compares_images = self.compares_images or options.koleo > 0
        for name in self.PATCH_HEAD:
            getattr(self, name).requires_grad_(options.mask_p > 0)
        if options.gram:
            self.gram_teacher = copy.deepcopy(self.teacher["backbone"])

    def forward(self, batch: Batch) -> Output:
        o = self.options
        output, tokens = self.distilled(batch)
        loss = output.loss
        if o.koleo:
            apart = [koleo_loss(gather(self.of_image(crop).float())) for crop in tokens]
            loss = loss + o.koleo * torch.stack(apart).sum()
        if o.gram:
            loss = self._anchored(loss, tokens, batch.views[:2])
        return output._replace(loss=loss)

    @property
    def gram_step(self) -> int:
        """The number of steps after which Gram anchoring begins."""
        return round(self.options.gram_start * self.run.epochs * self.run.steps)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the step decides what is computed
    def _anchored(self, loss: Tensor, tokens: list[Tensor], views: list[Tensor]) -> Tensor:
        """``loss`` and, from ``gram_step`` on, the weighted loss of Gram anchoring of the large crops."""
        if self.now.step < self.gram_step:
            return loss
        with torch.no_grad():
            anchors = patch_tokens(self.gram_teacher, torch.cat(views)).float()
        return loss + self.options.gram * gram_loss(self.of_patches(torch.cat(tokens)).float(), anchors)

    def clip_gradients(self, limit: float) -> None:
        """Scales the gradients of the backbone, and those of each head, whose common norm is above ``limit``."""
        for names in (("backbone", "mask_token"), ("projector", "prototypes"), self.PATCH_HEAD):
            parameters = [p for key, p in self.named_parameters() if key.partition(".")[0] in names]
            nn.utils.clip_grad_norm_(parameters, limit)

    def after_step(self) -> None:
        super().after_step()
        if self.options.gram and self.now.step + 1 == self.gram_step:
            self.gram_teacher.load_state_dict(self.teacher["backbone"].state_dict())

    def diagnose(self, loss: float) -> str | None:
        return super().diagnose(loss) if self.constant_output_losses else None

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        """Unknown with KoLeo and Gram anchoring, which depend on the backbone's outputs."""
        return () if self.options.koleo or self.options.gram else super().constant_output_losses
