"""A callback for Lightning, and for libraries whose trainer is Lightning's, such as stable-pretraining.

``lightning`` and ``pytorch_lightning`` are both supported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ssltool.diagnosis.monitor import Check
from ssltool.integrations.attach import MonitorCallback, library, numbers

_lightning = library("lightning", "lightning.pytorch", "pytorch_lightning")


class CollapseMonitor(MonitorCallback, _lightning.Callback):  # type: ignore[name-defined]
    """Looks at the layers of a LightningModule; its arguments are those of ``MonitorCallback``.

    The metrics go to all loggers of the trainer and, for callbacks such as ``ModelCheckpoint``, into
    ``trainer.callback_metrics``. ``layers`` are, for example, ``{"backbone": "backbone", "projector":
    "model.projector"}``; ``images`` are by default the first validation dataloader.
    """

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Makes the monitor, and looks at the network before the first step."""
        self.attached.start(pl_module, lambda: _first_loader(trainer.val_dataloaders))
        self._report(trainer, self.attached.step(trainer.global_step))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Looks if it is time to."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor):
            loss = loss.detach() * trainer.accumulate_grad_batches  # Lightning has divided it
        check = self.attached.step(trainer.global_step, loss)
        if check is not None:
            pl_module.log_dict(numbers(check), on_step=True, on_epoch=False, logger=False)
        self._report(trainer, check)

    def _report(self, trainer: Any, check: Check | None) -> None:
        if check is None:
            return
        for logger in trainer.loggers:
            logger.log_metrics(numbers(check), step=check.step)
        for warning in check.warnings:
            _lightning.utilities.rank_zero_warn(f"step {check.step}: {warning}")
        if self.attached.stops(check):
            trainer.should_stop = True


def _first_loader(loaders: Any) -> Any:
    while isinstance(loaders, (list, tuple)):
        loaders = loaders[0] if loaders else None
    return next(iter(loaders.values()), None) if isinstance(loaders, dict) else loaders
