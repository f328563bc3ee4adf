"""The settings of every stage: frozen dataclasses, the only home of names, defaults and help texts.

The command line is generated from these classes (``ssltool.cli.options``), the checks of ranges and
choices happen here for Python and command line alike, and a run's resolved settings are saved as
``config.json`` and inside each checkpoint. Only the standard library is imported.
"""

from __future__ import annotations

from ssltool.config.diagnose import CollapseConfig
from ssltool.config.evaluate import KnnConfig, LinclsConfig, NetworkSettings, SaveReprsConfig
from ssltool.config.pictures import PlotConfig, ReportConfig
from ssltool.config.pretrain import PretrainConfig
from ssltool.config.rank import RankConfig
from ssltool.config.shared import (
    DATASETS,
    LAYERS,
    SPLITS,
    STEMS,
    STRATEGIES,
    DataSettings,
    DeviceSettings,
    RunSettings,
    as_dict,
    fixed_settings,
)

__all__ = [
    "DATASETS",
    "LAYERS",
    "SPLITS",
    "STEMS",
    "STRATEGIES",
    "CollapseConfig",
    "DataSettings",
    "DeviceSettings",
    "KnnConfig",
    "LinclsConfig",
    "NetworkSettings",
    "PlotConfig",
    "PretrainConfig",
    "RankConfig",
    "ReportConfig",
    "RunSettings",
    "SaveReprsConfig",
    "as_dict",
    "fixed_settings",
]
