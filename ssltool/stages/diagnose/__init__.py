"""The diagnose stage: what went wrong in a training, from its run folder, its log or its checkpoints."""

from __future__ import annotations

from ssltool.config import DiagnoseConfig
from ssltool.settings import Record


def run(config: DiagnoseConfig) -> Record:
    """Runs the stage; see ``stages.diagnose.diagnose.run``."""
    from ssltool.stages.diagnose.diagnose import run as stage

    return stage(config)
