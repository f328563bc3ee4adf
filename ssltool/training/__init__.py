"""Training: the registry of optimizers; the loop, its state, schedules, devices and processes.

An optimizer's module is imported when the optimizer is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ssltool.errors import SSLToolError
from ssltool.registry import Registry, Selection
from ssltool.settings import Rule

if TYPE_CHECKING:
    from torch.optim.optimizer import Optimizer

STAGES = ("pretrain", "finetune", "lincls")
"""The stages that have ``--optimizer``."""


@dataclass(frozen=True)
class OptimizerEntry:
    """An optimizer.

    Args:
        target: the class, called as ``target(groups, lr, weight_decay=...)``.
        stages: the stages that offer it.
        settings: the other settings that it uses, by the keyword argument that takes each.

    Raises:
        SSLToolError: for a stage without ``--optimizer``, or for finetune without pretrain, whose settings it uses.
    """

    target: str | Callable[..., Optimizer]
    stages: tuple[str, ...] = STAGES
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not set(self.stages) <= set(STAGES) or ("finetune" in self.stages and "pretrain" not in self.stages):
            raise SSLToolError(
                f"the stages of an optimizer are {', '.join(self.stages)}; choose among {', '.join(STAGES)}, "
                "and add pretrain if finetune is one of them"
            )


_MOMENTUM = {"momentum": "momentum"}

OPTIMIZERS: Registry[OptimizerEntry] = Registry(
    "optimizer",
    __name__,
    {
        "sgd": OptimizerEntry("torch.optim:SGD", STAGES, _MOMENTUM),
        "adam": OptimizerEntry("torch.optim:Adam", ("pretrain",)),
        "adamw": OptimizerEntry("torch.optim:AdamW", ("pretrain", "finetune")),
        "larc": OptimizerEntry(".optimizers:LARC", ("lincls",), _MOMENTUM),
        "lars": OptimizerEntry(
            ".optimizers:LARS", ("pretrain", "lincls"), _MOMENTUM | {"trust": "lars_trust", "clip": "lars_clip"}
        ),
    },
)


def optimizers_of(stage: str) -> Selection[OptimizerEntry]:
    """The optimizers that a stage offers."""
    return OPTIMIZERS.where(lambda entry: stage in entry.stages)


def optimizer_rule(config: Any, optimizer: str) -> Rule:
    """The settings of ``config`` that only other optimizers use; see ``settings.ineffective``."""
    every = dict.fromkeys(name for entry in OPTIMIZERS.values() for name in entry.settings.values())
    known = {f.name for f in dataclasses.fields(config)}
    unused = tuple(name for name in every if name in known and name not in OPTIMIZERS[optimizer].settings.values())
    return unused, True, f"with --optimizer {optimizer}"
