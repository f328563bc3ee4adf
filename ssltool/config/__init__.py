"""The settings of every stage: frozen dataclasses that declare names, defaults, help texts and rules once.

The command line is generated from these classes (``ssltool.cli.flags``). The constructor checks each value, ``check``
checks their combination. A run's settings are saved as ``config.json`` and in each
checkpoint. Only the standard library is imported.
"""

from __future__ import annotations

from ssltool.config.cache import CacheConfig
from ssltool.config.collapse import CollapseConfig, CollapseLayersConfig
from ssltool.config.common import (
    CheckpointsSettings,
    DataSettings,
    DeviceSettings,
    LabelledSettings,
    NetworkSettings,
    RunSettings,
    SourceSettings,
    as_dict,
    fixed_settings,
)
from ssltool.config.diagnose import DiagnoseConfig
from ssltool.config.doctor import DoctorConfig
from ssltool.config.duplicates import DuplicatesConfig
from ssltool.config.export import ExportConfig
from ssltool.config.fields import LAYERS, SPLITS, STEMS, STRATEGIES
from ssltool.config.finetune import FinetuneConfig
from ssltool.config.inspect import InspectConfig
from ssltool.config.knn import KnnConfig
from ssltool.config.lincls import LinclsConfig
from ssltool.config.methods import MethodsConfig
from ssltool.config.neighbours import NeighboursConfig
from ssltool.config.outliers import OutliersConfig
from ssltool.config.plot import PlotConfig
from ssltool.config.pretrain import PretrainConfig
from ssltool.config.rank import RankConfig
from ssltool.config.report import ReportConfig
from ssltool.config.save_reprs import SaveReprsConfig
from ssltool.config.scan import ScanConfig
from ssltool.config.table import TableConfig
from ssltool.config.watch import WatchConfig

__all__ = [
    "LAYERS",
    "SPLITS",
    "STEMS",
    "STRATEGIES",
    "CacheConfig",
    "CheckpointsSettings",
    "CollapseConfig",
    "CollapseLayersConfig",
    "DataSettings",
    "DeviceSettings",
    "DiagnoseConfig",
    "DoctorConfig",
    "DuplicatesConfig",
    "ExportConfig",
    "FinetuneConfig",
    "InspectConfig",
    "KnnConfig",
    "LabelledSettings",
    "LinclsConfig",
    "MethodsConfig",
    "NeighboursConfig",
    "NetworkSettings",
    "OutliersConfig",
    "PlotConfig",
    "PretrainConfig",
    "RankConfig",
    "ReportConfig",
    "RunSettings",
    "SaveReprsConfig",
    "ScanConfig",
    "SourceSettings",
    "TableConfig",
    "WatchConfig",
    "as_dict",
    "fixed_settings",
]
