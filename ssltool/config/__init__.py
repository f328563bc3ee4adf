"""The settings of every stage: frozen dataclasses, the only home of names, defaults and help texts.

The command line is generated from these classes (``ssltool.cli.options``), the checks of ranges and
choices happen here for Python and command line alike, and a run's resolved settings are saved as
``config.json`` and inside each checkpoint. Only the standard library is imported.
"""

from __future__ import annotations

from ssltool.config.diagnose import CollapseConfig
from ssltool.config.evaluate import LabelledSettings, NetworkSettings, SaveReprsConfig
from ssltool.config.exchange import ExportConfig, InspectConfig
from ssltool.config.finetune import FinetuneConfig
from ssltool.config.knn import KnnConfig
from ssltool.config.pictures import PlotConfig, ReportConfig
from ssltool.config.pretrain import PretrainConfig
from ssltool.config.probe import LinclsConfig
from ssltool.config.rank import RankConfig
from ssltool.config.scan import ScanConfig
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
    "ExportConfig",
    "FinetuneConfig",
    "InspectConfig",
    "KnnConfig",
    "LabelledSettings",
    "LinclsConfig",
    "NetworkSettings",
    "PlotConfig",
    "PretrainConfig",
    "RankConfig",
    "ReportConfig",
    "RunSettings",
    "SaveReprsConfig",
    "ScanConfig",
    "as_dict",
    "fixed_settings",
]
