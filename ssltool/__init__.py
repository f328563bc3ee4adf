"""Pretrain image networks without labels, and measure whether their representations collapsed.

The public Python API: what is listed in ``__all__`` is public and documented in ``docs/api.md``; everything else may
change. Importing ``ssltool`` imports neither torch nor pandas; each function imports what it needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

    from ssltool.checkpoints.pretrained_backbone import PretrainedBackbone
    from ssltool.config import (
        CollapseConfig,
        KnnConfig,
        LinclsConfig,
        PretrainConfig,
        RankConfig,
        SaveReprsConfig,
    )
    from ssltool.diagnosis.diagnose import Diagnosis
    from ssltool.diagnosis.monitor import Check, Monitor
    from ssltool.errors import Diverged, Interrupted, SSLToolError, UsageError
    from ssltool.reprs.representations import Representations
    from ssltool.stages.results import (
        CollapseResult,
        KnnResult,
        LinclsResult,
        PretrainResult,
        RankResult,
        SavedRepresentations,
    )

__version__ = "0.1.0"

_CLASSES = {
    **dict.fromkeys(
        ("CollapseConfig", "KnnConfig", "LinclsConfig", "PretrainConfig", "RankConfig", "SaveReprsConfig"),
        "ssltool.config",
    ),
    **dict.fromkeys(
        ("CollapseResult", "KnnResult", "LinclsResult", "PretrainResult", "RankResult", "SavedRepresentations"),
        "ssltool.stages.results",
    ),
    "Check": "ssltool.diagnosis.monitor",
    "Diagnosis": "ssltool.diagnosis.diagnose",
    "Diverged": "ssltool.errors",
    "Interrupted": "ssltool.errors",
    "Monitor": "ssltool.diagnosis.monitor",
    "PretrainedBackbone": "ssltool.checkpoints.pretrained_backbone",
    "Representations": "ssltool.reprs.representations",
    "SSLToolError": "ssltool.errors",
    "UsageError": "ssltool.errors",
}
"""Public classes and the modules that define them."""

__all__ = [
    "Check",
    "CollapseConfig",
    "CollapseResult",
    "Diagnosis",
    "Diverged",
    "Interrupted",
    "KnnConfig",
    "KnnResult",
    "LinclsConfig",
    "LinclsResult",
    "Monitor",
    "PretrainConfig",
    "PretrainResult",
    "PretrainedBackbone",
    "RankConfig",
    "RankResult",
    "Representations",
    "SSLToolError",
    "SaveReprsConfig",
    "SavedRepresentations",
    "UsageError",
    "collapse",
    "knn",
    "lincls",
    "load_backbone",
    "load_representations",
    "measure",
    "pretrain",
    "rank",
    "read_run",
    "save_reprs",
]


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return getattr(importlib.import_module(_CLASSES[name]), name)
    raise AttributeError(f"module 'ssltool' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def pretrain(config: PretrainConfig | None = None, /, *, verbose: bool = False, **settings: Any) -> PretrainResult:
    """Pretrains a network, as ``ssltool pretrain`` does.

    Args:
        config: the settings; or give them as keywords, named as the command's flags with ``_``. The method's own
            options may be a mapping: ``options={"dim": 512}``.
        verbose: print messages and progress on stderr.

    Raises:
        UsageError: for settings that are invalid by themselves.
        SSLToolError: for data or files that cannot be used; nothing is then half-written.
        Diverged: if the loss or the weights are not finite; the last checkpoint is from before.
        Interrupted: after SIGTERM, SIGINT or SIGUSR1, whose number it has; the state is saved.
    """
    from ssltool.stages.results import PretrainResult, called

    with called(config, "PretrainConfig", settings, verbose) as checked:
        return PretrainResult.run(checked)


def save_reprs(
    config: SaveReprsConfig | None = None, /, *, verbose: bool = False, **settings: Any
) -> list[SavedRepresentations]:
    """Computes representations of a dataset and saves them, as ``ssltool save-reprs`` does; one item per file.

    Arguments and errors are those of ``pretrain``.
    """
    from ssltool.stages.results import SavedRepresentations, called

    with called(config, "SaveReprsConfig", settings, verbose) as checked:
        return SavedRepresentations.run(checked)


def knn(config: KnnConfig | None = None, /, *, verbose: bool = False, **settings: Any) -> KnnResult:
    """Classifies representations by their nearest neighbours, as ``ssltool knn`` does.

    ``bank`` and ``queries`` name the files. Other arguments and errors are those of ``pretrain``.
    """
    from ssltool.stages.results import KnnResult, called

    with called(config, "KnnConfig", settings, verbose) as checked:
        return KnnResult.run(checked)


def lincls(config: LinclsConfig | None = None, /, *, verbose: bool = False, **settings: Any) -> LinclsResult:
    """Trains a linear probe on frozen features, as ``ssltool lincls`` does.

    Arguments and errors are those of ``pretrain``.
    """
    from ssltool.stages.results import LinclsResult, called

    with called(config, "LinclsConfig", settings, verbose) as checked:
        return LinclsResult.run(checked)


def collapse(config: CollapseConfig | None = None, /, *, verbose: bool = False, **settings: Any) -> CollapseResult:
    """Measures the collapse of saved representations and writes their spectra, as ``ssltool collapse`` does.

    ``files`` names the files. To measure a tensor or an array, use ``measure``. Other arguments and errors are those of
    ``pretrain``.
    """
    from ssltool.stages.results import CollapseResult, called

    with called(config, "CollapseConfig", settings, verbose) as checked:
        return CollapseResult.run(checked)


def rank(config: RankConfig | None = None, /, *, verbose: bool = False, **settings: Any) -> RankResult:
    """Orders runs or checkpoints by a metric that needs no labels, as ``ssltool rank`` does.

    ``items`` names run folders or files of representations. Other arguments and errors are those of ``pretrain``.
    """
    from ssltool.stages.results import RankResult, called

    with called(config, "RankConfig", settings, verbose) as checked:
        return RankResult.run(checked)


def load_backbone(
    path: str, *, arch: str | None = None, stem: str | None = None, key: str | None = None, device: str = "cpu"
) -> PretrainedBackbone:
    """The backbone of a checkpoint, ssltool's or another program's, in eval mode: ``backbone(images) -> (N, dim)``.

    Args:
        path: the checkpoint; loading it executes nothing.
        arch, stem: the architecture and stem, needed only where the file leaves them open.
        key: the network to take from a file that holds several, as ``--key`` of the command line.
        device: where the weights go.

    Returns:
        A module with ``dim``, ``image_size`` and ``transform``, which turns a PIL image into an input (3, S, S).

    Raises:
        SSLToolError: if the file is unreadable or holds no complete backbone that ssltool knows.
    """
    from ssltool.checkpoints.pretrained_backbone import PretrainedBackbone

    return PretrainedBackbone.load(path, arch=arch, stem=stem, key=key, device=device)


def load_representations(path: str, *more: str) -> Representations:
    """Saved representations, memory-mapped; several files are read as one.

    Raises:
        SSLToolError: if a file is unreadable, holds no representations, or the files do not belong together.
    """
    from ssltool.reprs.representations import Representations

    return Representations.load([path, *more] if more else path)


def measure(x: Tensor | np.ndarray, metrics: str | None = None, labels: Tensor | np.ndarray | None = None) -> Diagnosis:
    """Measures the collapse of representations in memory.

    Args:
        x: representations (N, d), or (N, Q, d) of Q views of each image.
        metrics: names separated by commas, or ``"all"``; by default those of a single pass.
        labels: class numbers (N,), which metrics of classes take; negative for images without a label.

    Returns:
        ``metrics`` by name, the ``verdict`` (healthy, partial or complete collapse) with its evidence, the singular
        values and ``notes`` on what may mislead.

    Raises:
        SSLToolError: for fewer than two rows, values that are not finite, or an unknown metric.
    """
    from ssltool.diagnosis.diagnose import diagnose

    return diagnose(x, metrics, labels)


def read_run(folder: str) -> pd.DataFrame:
    """The records of a run folder: one row per epoch (from 0) or look of a monitor, one column per recorded value.

    The run's settings are in ``read_run(folder).attrs["settings"]``.

    Raises:
        SSLToolError: if ``folder`` is no run folder.
    """
    from ssltool.stages.results import read_run

    return read_run(folder)
