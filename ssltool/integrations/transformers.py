"""A callback for the Trainer of transformers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ssltool.diagnosis.monitor import Check
from ssltool.integrations.attach import Attached, Named, library, numbers

_transformers = library("transformers", "transformers")


class CollapseMonitor(_transformers.TrainerCallback):  # type: ignore[name-defined]
    """Looks at the layers of the model every ``every`` optimizer steps, and at the start.

    ``trainer.add_callback(CollapseMonitor(trainer, layers))``. The metrics go through ``trainer.log`` to its history
    and to ``report_to``; ``collapse_severity`` is 0 healthy, 1 partial, 2 complete. The loss of a look is the last one
    that the Trainer logged. Problems are warnings.

    Args:
        trainer: the Trainer.
        layers: as for ``Monitor``, or paths of attributes of the model, such as
            ``{"backbone": ("vit", "last_hidden_state")}``.
        images: as for ``Monitor``; by default the evaluation dataloader of the Trainer.
        forward: as for ``Monitor``, or the path of an attribute.
        stop_on: ``partial``, ``complete`` or kinds of collapse, as in ``--stop-on``: stops the training there.
        settings: the other arguments of ``Monitor``: ``every``, ``out``, ``labels``, ``size``, ``bounds``,
            ``constant_losses``.

    Raises:
        SSLToolError: as ``Monitor``, when the training starts.
    """

    def __init__(
        self,
        trainer: Any,
        layers: Mapping[str, Named],
        images: Any = None,
        *,
        forward: str | Callable[[Any], Any] | None = None,
        stop_on: str | None = None,
        **settings: Any,
    ) -> None:
        self.trainer = trainer
        self.attached = Attached(layers, images, forward, stop_on, **settings)

    @property
    def checks(self) -> list[Check]:
        """The looks of this process."""
        return self.attached.checks

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        """Makes the monitor, and looks at the model before the first step."""
        self.attached.start(model, self._evaluation_images)
        self._look(state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Looks if it is time to."""
        self._look(state, control)

    def _look(self, state: Any, control: Any) -> None:
        loss = next((logged["loss"] for logged in reversed(state.log_history) if "loss" in logged), None)
        check = self.attached.step(state.global_step, loss)
        if check is None:
            return
        due = control.should_log
        self.trainer.log(numbers(check))
        control.should_log = due  # the Trainer has taken this for its own log of the step
        for warning in check.warnings if state.is_world_process_zero else []:
            warnings.warn(f"step {check.step}: {warning}", stacklevel=2)
        if self.attached.stops(check):
            control.should_training_stop = True

    def _evaluation_images(self) -> Any:
        return None if self.trainer.eval_dataset is None else self.trainer.get_eval_dataloader()
