"""The checkpoint file of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ssltool.checkpoints.saved_run import MOST_EPOCHS, SETTINGS, SavedRun
from ssltool.files import Stored
from ssltool.files.schema import boolean, entry, integer, listing, mapping, nested, optional, real, tensor, text
from ssltool.settings import Record, Settings

NUMBER = optional(real(finite=False))

RECORD = mapping(
    optional={
        "epoch": integer(0, MOST_EPOCHS),
        "step": integer(0),
        "seed": integer(),
        **dict.fromkeys(("arm", "phase", "strategy", "verdict"), text(200)),
        "converged": boolean(),
        "tried": listing(mapping(optional={"converged": boolean()}, other=NUMBER)),
    },
    other=NUMBER,
)
"""A record of an epoch, as in ``metrics.jsonl``: names, and numbers or None."""

METRICS = mapping(
    {"epochs": listing(RECORD), "epoch_step": integer(0), "sums": mapping(other=real(finite=False))}, other=nested()
)
"""The records of the completed epochs, and the steps and sums of the unfinished one."""


@dataclass
class Checkpoint(Stored):
    """The state of a run after some step: everything needed to use the model or to resume training bit for bit.

    Attributes:
        epoch: the number of completed epochs.
        step: the number of completed optimizer steps.
        config: the settings of the run; ``run`` gives them typed.
        state_dict: the method's weights, with the prefixes ``backbone.``, ``projector.`` and ``predictor.``.
        metrics: the records of the completed epochs, and the sums over the steps of the unfinished epoch.
    """

    FORMAT: ClassVar[str] = "ssltool/checkpoint/1"

    method: str = entry(text(200))
    arch: str = entry(text(200))
    epoch: int = entry(integer(0, MOST_EPOCHS))
    step: int = entry(integer(0))
    config: Settings = entry(SETTINGS)
    state_dict: dict[str, Tensor] = entry(mapping(other=tensor(...), minimum=1))
    optimizer: dict[str, Any] = entry(mapping(other=nested(tensors=True)))
    scaler: dict[str, Any] | None = entry(optional(mapping(other=real())))
    metrics: Record = entry(METRICS)

    @property
    def run(self) -> SavedRun:
        """The run that wrote the checkpoint.

        Raises:
            SSLToolError: if a setting is missing from ``config``.
        """
        return SavedRun.read(self.config, "the checkpoint")
