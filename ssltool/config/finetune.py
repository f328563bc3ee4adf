"""The settings of ``ssltool finetune``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.config.common import LabelledSettings, RunSettings
from ssltool.config.fields import (
    batch_size,
    crop_min,
    epochs,
    learning_rate,
    momentum,
    precision,
    resume_auto,
    warmup_epochs,
    warmup_mistakes,
    weight_decay,
)
from ssltool.settings import Rule, setting
from ssltool.training import optimizer_rule, optimizers_of


@dataclass(frozen=True)
class FinetuneConfig(RunSettings, LabelledSettings):
    """Settings of ``ssltool finetune``."""

    from_scratch: bool = setting(
        False, "also train an untrained network of the same architecture for as long, and print the difference"
    )
    seeds: int = setting(
        1,
        "number of repetitions, with the seeds --seed, --seed + 1, ...; two or more also print the spread",
        minimum=1,
        maximum=10_000,
    )

    crop_min: float = crop_min(0.08)

    epochs: int = epochs(30)
    batch_size: int | None = batch_size(
        None, "images in a batch, or all if there are fewer [default: 256; 128 on the bundled data]"
    )
    optimizer: str = setting("sgd", "optimizer", choices=optimizers_of("finetune"), section="Optimisation")
    lr: float = learning_rate(0.3)
    head_lr: float | None = setting(
        None,
        "learning rate of the pretrained network's new classifier [default: --lr]",
        section="Optimisation",
        above=0,
    )
    scratch_lr: float | None = setting(
        None, "learning rate of the network from scratch [default: --lr]", section="Optimisation", above=0
    )
    layer_decay: float = setting(
        1.0,
        "factor between the learning rates of successive layers of the pretrained network; the last layer has --lr",
        section="Optimisation",
        above=0,
        maximum=1,
    )
    momentum: float = momentum("momentum of SGD")
    weight_decay: float = weight_decay(1e-4)
    warmup_epochs: int = warmup_epochs()
    label_smoothing: float = setting(
        0.0,
        "probability mass of a label that is spread over all classes",
        section="Optimisation",
        minimum=0,
        maximum=1,
        advanced=True,
    )

    resume: str | None = resume_auto()
    precision: str = precision()

    def conflicts(self) -> list[Rule]:
        trained = ("from_scratch", "layer_decay", "head_lr", "scratch_lr")
        return [
            *super().conflicts(),
            (trained, self.untrained, "without a trained network"),
            (("scratch_lr",), not self.from_scratch, "without --from-scratch"),
            optimizer_rule(self, self.optimizer),
        ]

    def mistakes(self) -> Iterator[str]:
        yield from super().mistakes()
        yield from warmup_mistakes(self.warmup_epochs, self.epochs)
