"""Learning-rate and weight-decay schedules."""

from __future__ import annotations

import math
from typing import NamedTuple

from ssltool.config import PretrainConfig


def scaled_lr(lr: float, batch_size: int) -> float:
    """Linear scaling rule: ``lr`` is per 256 images."""
    return lr * batch_size / 256


def cosine(progress: float, start: float, end: float = 0.0) -> float:
    """Half a cosine from ``start`` at progress 0 to ``end`` at progress 1."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


class Rates(NamedTuple):
    """Rates of one step: the learning rate, the learning rate of groups with a fixed rate, and the weight decay."""

    lr: float
    fixed: float
    weight_decay: float


def learning_rates(
    epoch: float, *, epochs: int, lr: float, final_lr: float = 0.0, warmup_epochs: int = 0, constant: bool = False
) -> tuple[float, float]:
    """The scheduled and the fixed learning rate at ``epoch`` (from 0).

    A cosine schedule after a linear warm-up, as in the paper's code. The warm-up factor is (1 + epoch) /
    (1 + warmup_epochs) for an integer epoch and epoch / warmup_epochs for a fractional one. ``lr`` and ``final_lr`` are
    already scaled. The fixed rate is always ``lr``, including the warm-up.
    """
    if constant:
        return lr, lr
    if epoch < warmup_epochs:
        share = (1 + epoch) / (1 + warmup_epochs) if isinstance(epoch, int) else epoch / warmup_epochs
        return lr * share, lr
    return cosine((epoch - warmup_epochs) / (epochs - warmup_epochs), lr, final_lr), lr


def rates_at(config: PretrainConfig, epoch: int, within: float = 0.0) -> Rates:
    """The rates of a resolved pretraining configuration in ``epoch``, after a fraction ``within`` of it."""
    if config.epochs is None or config.batch_size is None:
        raise ValueError("the configuration is not resolved")
    time = epoch + within if config.lr_schedule == "step" else epoch
    lr, fixed = learning_rates(
        time,
        epochs=config.epochs,
        lr=scaled_lr(config.lr, config.batch_size),
        final_lr=scaled_lr(config.final_lr, config.batch_size),
        warmup_epochs=config.warmup_epochs,
        constant=config.fix_all_lr,
    )
    if config.final_weight_decay is None:
        return Rates(lr, fixed, config.weight_decay)
    return Rates(lr, fixed, cosine(time / config.epochs, config.weight_decay, config.final_weight_decay))
