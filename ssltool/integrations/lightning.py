"""A callback for Lightning, and for libraries whose trainer is Lightning's, such as stable-pretraining.

``lightning`` and ``pytorch_lightning`` are both supported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ssltool.diagnosis.monitor import Check
from ssltool.integrations.attach import Attached, Named, library, numbers

_lightning = library("lightning", "lightning.pytorch", "pytorch_lightning")


class CollapseMonitor(_lightning.Callback):  # type: ignore[name-defined]
    """Looks at the layers of a LightningModule every ``every`` optimizer steps, and at the start.

    The metrics go to all loggers of the trainer and, for callbacks such as ``ModelCheckpoint``, into
    ``trainer.callback_metrics``; ``collapse_severity`` is 0 healthy, 1 partial, 2 complete. Problems are warnings.

    Args:
        layers: as for ``Monitor``, or paths of attributes of the LightningModule, such as
            ``{"backbone": "backbone", "projector": "model.projector"}``.
        images: as for ``Monitor``; by default the first validation dataloader.
        forward: as for ``Monitor``, or the path of an attribute.
        stop_on: ``partial``, ``complete`` or kinds of collapse, as in ``--stop-on``: stops the training there.
        settings: the other arguments of ``Monitor``: ``every``, ``out``, ``labels``, ``size``, ``bounds``,
            ``constant_losses``.

    Raises:
        SSLToolError: as ``Monitor``, when the training starts.
    """

    def __init__(
        self,
        layers: Mapping[str, Named],
        images: Any = None,
        *,
        forward: str | Callable[[Any], Any] | None = None,
        stop_on: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.attached = Attached(layers, images, forward, stop_on, **settings)

    @property
    def checks(self) -> list[Check]:
        """The looks of this process."""
        return self.attached.checks

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
