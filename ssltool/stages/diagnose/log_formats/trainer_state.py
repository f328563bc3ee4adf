"""``trainer_state.json`` of the Trainer of transformers, as it lies in ``checkpoint-*/``.

``transformers/trainer_callback.py`` writes one document, whose ``log_history`` has a dict for each call of
``Trainer.log``: ``loss``, ``learning_rate``, ``grad_norm``, ``epoch`` and ``step``.
"""

from __future__ import annotations

from ssltool.stages.diagnose.log_formats.log_columns import read_columns
from ssltool.stages.diagnose.log_formats.log_file import LogFile, numbers
from ssltool.stages.diagnose.series import Series


def read(log: LogFile, loss: str | None) -> Series | None:
    """The series of such a file; None if the file is none."""
    history = log.json.get("log_history") if isinstance(log.json, dict) else None
    if not isinstance(history, list):
        return None
    rows = [row for entry in history if isinstance(entry, dict) and (row := numbers(entry))]
    return read_columns(log.path, "trainer_state.json of transformers", rows, loss=loss)
