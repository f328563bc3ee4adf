"""The checkpoint file of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ssltool.checkpoints.saved_run import SETTINGS, SavedRun
from ssltool.config.fields import MOST_EPOCHS
from ssltool.files.schema import (
    Check,
    Sizes,
    boolean,
    entry,
    integer,
    listing,
    mapping,
    nested,
    optional,
    real,
    tensor,
    text,
)
from ssltool.files.stored import Stored
from ssltool.settings import Record, Settings

NUMBER = optional(real(finite=False))

_EPOCH = mapping(
    {"epoch": integer(0, MOST_EPOCHS)},
    {
        "step": integer(0),
        "seed": integer(),
        **dict.fromkeys(("arm", "phase", "strategy"), text(200)),
        **dict.fromkeys(("verdict", "kinds"), optional(text(200))),
        "converged": boolean(),
        "tried": listing(mapping(optional={"converged": boolean()}, other=NUMBER)),
    },
    NUMBER,
)
_FIT = mapping({"c": real(0), "converged": boolean(), "iterations": integer(0)}, other=NUMBER)


def _record(value: Any, sizes: Sizes) -> Record:
    of_fit = isinstance(value, dict) and "c" in value
    record: Record = (_FIT if of_fit else _EPOCH)(value, sizes)
    return record


RECORD = Check("a record", _record)
"""A record of an epoch, or of a fit of lincls, as in ``metrics.jsonl``: names, and numbers or None."""

OPTIMIZER = mapping(
    optional={
        "state": mapping(keys=integer(0), other=mapping(other=nested(tensors=True))),
        "param_groups": listing(mapping(other=nested(tensors=True))),
    }
)
"""The state of an optimizer; empty if there is none."""

SCALER = mapping(
    {
        **dict.fromkeys(("scale", "growth_factor", "backoff_factor"), real(0)),
        "growth_interval": integer(1),
        "_growth_tracker": integer(0),
    }
)
"""The state of a gradient scaler."""

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
    arch: str = entry(text())
    epoch: int = entry(integer(0, MOST_EPOCHS))
    step: int = entry(integer(0))
    config: Settings = entry(SETTINGS)
    state_dict: dict[str, Tensor] = entry(mapping(other=tensor(...), minimum=1))
    optimizer: dict[str, Any] = entry(OPTIMIZER)
    scaler: dict[str, Any] | None = entry(optional(SCALER))
    metrics: Record = entry(METRICS)

    @property
    def run(self) -> SavedRun:
        """The run that wrote the checkpoint.

        Raises:
            SSLToolError: if a setting is missing from ``config``.
        """
        return SavedRun.read(self.config, "the checkpoint")
