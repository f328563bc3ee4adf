"""A callback for the Trainer of transformers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from ssltool.integrations.attach import MonitorCallback, Named, library, numbers

_transformers = library("transformers", "transformers")


class CollapseMonitor(MonitorCallback, _transformers.TrainerCallback):  # type: ignore[name-defined]
    """Looks at the layers of the model of ``trainer``; its other arguments are those of ``MonitorCallback``.

    ``trainer.add_callback(CollapseMonitor(trainer, layers))``. The metrics go through ``trainer.log`` to its history
    and to ``report_to``. The loss of a look is the last one that the Trainer logged. ``layers`` are, for example,
    ``{"backbone": ("vit", "last_hidden_state")}``; ``images`` are by default the evaluation dataloader of the Trainer.
    """

    def __init__(self, trainer: Any, layers: Mapping[str, Named], images: Any = None, **settings: Any) -> None:
        super().__init__(layers, images, **settings)
        self.trainer = trainer

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
