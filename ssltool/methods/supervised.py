"""Cross-entropy with labels: the reference that methods without labels are compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from ssltool.data.loader import Batch
from ssltool.data.views import Recipe
from ssltool.methods.base import Method, Output, RunFacts
from ssltool.methods.options import MethodOptions
from ssltool.settings import setting


@dataclass(frozen=True)
class SupervisedOptions(MethodOptions):
    """The method's options."""

    label_smoothing: float = setting(0.0, "share of each label that is spread over all classes", minimum=0, maximum=1)


class Supervised(Method):
    """A linear classifier on the backbone; one view of each image."""

    Options = SupervisedOptions
    watched = ("backbone",)  # the projector's outputs are the classes' logits
    uses_labels = True

    def __init__(self, backbone: nn.Module, dim: int, options: SupervisedOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = nn.Linear(dim, run.classes)

    def view_recipes(self, base: Recipe) -> list[Recipe]:
        return [base]

    def forward(self, batch: Batch) -> Output:
        (view,) = batch.views
        h = self.backbone(view)
        logits = self.projector(h).float()
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.options.label_smoothing)
        return Output(loss, h.detach().float())

    def causes(self) -> dict[str, bool]:
        classes = self.run.classes
        return {f"labels of {classes} classes ask for {classes - 1} directions, so that no others need be used": True}

    @property
    def collapsed_losses(self) -> tuple[float, ...]:
        return (math.log(self.run.classes),)
