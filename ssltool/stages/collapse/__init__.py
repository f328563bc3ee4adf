"""The collapse stage: spectra, metrics and verdicts of representations, or of every block of networks."""

from __future__ import annotations

from ssltool.config import CollapseConfig, CollapseLayersConfig
from ssltool.settings import Record


def run(config: CollapseConfig) -> Record:
    """Measures files of representations; see ``stages.collapse.collapse.run``."""
    from ssltool.stages.collapse.collapse import run as stage

    return stage(config)


def run_layers(config: CollapseLayersConfig) -> Record:
    """Measures the layers of networks; see ``stages.collapse.collapse_layers.run``."""
    from ssltool.stages.collapse.collapse_layers import run as stage

    return stage(config)
