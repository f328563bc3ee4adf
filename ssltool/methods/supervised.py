"""Supervised training with cross-entropy: the reference for methods without labels."""

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
    """Options of supervised training."""

    label_smoothing: float = setting(0.0, "fraction of each label distributed over all classes", minimum=0, maximum=1)


class Supervised(Method):
    """A linear classifier on the backbone. One view per image."""

    Options = SupervisedOptions
    compares_images = False
    monitored_layers = ("backbone",)  # the projector outputs class logits
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

    def collapse_causes(self) -> dict[str, bool]:
        classes = self.run.classes
        return {f"{classes} classes require only {classes - 1} dimensions; the loss does not require others": True}

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (math.log(self.run.classes),)
