"""Typed results of the stages, for Python: what ``ssltool.pretrain``, ``ssltool.knn`` and the others return.

The main values are fields; ``document`` is what the command prints with ``--json``.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ssltool import config as configs
from ssltool.errors import Collapsed, UsageError, unknown
from ssltool.runs.folder import RunFolder
from ssltool.runs.monitor_folder import records_of
from ssltool.settings import Record, value_type
from ssltool.training.progress import quiet


@contextmanager
def called(config: Any, name: str, settings: Mapping[str, Any], verbose: bool) -> Iterator[Any]:
    """The settings of a call: ``config``, or an instance of the class ``name`` with ``settings``.

    The stage prints nothing unless ``verbose``.

    Raises:
        UsageError: if both are given, ``config`` is of another class, or a setting is unknown or out of range.
    """
    cls = getattr(configs, name)
    if config is None:
        config = from_keywords(cls, settings)
    elif settings:
        raise UsageError(f"give a {name} or keywords, not both; found keywords {', '.join(settings)}")
    elif not isinstance(config, cls):
        raise UsageError(f"the settings are a {type(config).__name__}; this function takes a {name}")
    with quiet(not verbose):
        yield config


def from_keywords(cls: type, settings: Mapping[str, Any]) -> Any:
    """An instance of the settings class ``cls``. Paths, lists, mappings and NumPy's numbers are converted as on the
    command line.

    Raises:
        UsageError: for an unknown name, with the nearest ones, or a value out of range.
    """
    names = [f.name for f in dataclasses.fields(cls)]
    for name in settings:
        if name not in names:
            raise unknown("setting", name, names)
    return cls(**{name: _plain(value, value_type(cls, name)) for name, value in settings.items()})


def _plain(value: Any, kind: type) -> Any:
    if isinstance(value, Mapping):
        return tuple(f"{key}={_plain(inner, str)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_plain(inner, str) for inner in value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, np.generic):  # a cell of a table
        value = value.item()
    return (value,) if isinstance(value, str) and kind not in (str, int, float, bool) else value


def read_run(folder: str | Path) -> pd.DataFrame:
    """The records of a run folder as a table; see ``ssltool.read_run``."""
    run = RunFolder(Path(folder))
    settings = run.read_config()
    table = pd.DataFrame(records_of(run.path, settings))
    table.attrs["settings"] = settings
    return table


@dataclass(frozen=True)
class PretrainResult:
    """A pretraining run: its ``folder``, its newest ``checkpoint``, and whether ``stop_on`` ended it early."""

    folder: Path
    checkpoint: Path
    collapsed: bool

    @classmethod
    def run(cls, config: configs.PretrainConfig) -> PretrainResult:
        """Trains, and returns where the result is."""
        from ssltool.stages.pretrain import run

        try:
            folder, collapsed = run(config), False
        except Collapsed as stop:
            folder, collapsed = stop.folder, True
        return cls(folder, RunFolder(folder).newest, collapsed)

    @property
    def history(self) -> pd.DataFrame:
        """The records of all epochs; see ``ssltool.read_run``."""
        return read_run(self.folder)


@dataclass(frozen=True)
class SavedRepresentations:
    """One file of saved representations: ``rows`` of ``width`` from a ``layer``, of the images of a ``split``."""

    path: Path
    split: str
    layer: str
    rows: int
    width: int

    @classmethod
    def run(cls, config: configs.SaveReprsConfig) -> list[SavedRepresentations]:
        """Computes and saves representations; one item for each file."""
        from ssltool.stages.save_reprs import run

        return [cls(Path(one["path"]), one["split"], one["layer"], one["n"], one["d"]) for one in run(config)]


@dataclass(frozen=True)
class KnnResult:
    """kNN accuracy in [0, 1] at ``k``, with its 95 % Wilson ``interval``; None if several k were asked for and none
    was selected. ``accuracies`` has a row for each k."""

    accuracy: float | None
    interval: tuple[float, float] | None
    k: int | None
    accuracies: pd.DataFrame
    document: Record = field(repr=False)

    @classmethod
    def run(cls, config: configs.KnnConfig) -> KnnResult:
        """Classifies, and returns the accuracies."""
        from ssltool.stages.knn import run

        found = run(config)
        interval = None if found["interval"] is None else tuple(found["interval"])
        return cls(found["accuracy"], interval, found["k"], pd.DataFrame(found["accuracies"]), found)


@dataclass(frozen=True)
class LinclsResult:
    """A linear probe's ``acc1``, ``acc5`` and mean of the classes' accuracies ``class_acc1``, in [0, 1]; the run
    ``folder``, None with ``evaluate``."""

    acc1: float
    acc5: float
    class_acc1: float
    folder: Path | None
    document: Record = field(repr=False)

    @classmethod
    def run(cls, config: configs.LinclsConfig) -> LinclsResult:
        """Trains or evaluates the probe."""
        from ssltool.stages.lincls import run

        found = run(config)
        folder = Path(found["run"]) if "run" in found else None
        return cls(found["acc1"], found["acc5"], found["class_acc1"], folder, found)


@dataclass(frozen=True)
class CollapseResult:
    """The collapse of each file: ``table`` has a row per file with its verdict and metrics; ``worst`` is the severest
    verdict (healthy, partial or complete)."""

    table: pd.DataFrame
    worst: str
    document: Record = field(repr=False)

    @classmethod
    def run(cls, config: configs.CollapseConfig) -> CollapseResult:
        """Measures the files and writes their spectra."""
        from ssltool.stages.collapse import run

        found = run(config)
        rows = [
            {"path": one["path"], "n": one["n"], "d": one["d"], "verdict": one["verdict"]["state"], **one["metrics"]}
            for one in found["files"]
        ]
        return cls(pd.DataFrame(rows), found["worst"], found)


@dataclass(frozen=True)
class RankResult:
    """Runs or checkpoints ordered ``by`` a metric: ``table`` has them best first; ``agreement`` with the accuracies, if
    known; ``notes`` on what limits the comparison."""

    table: pd.DataFrame
    by: str
    agreement: Record | None
    notes: list[str]
    document: Record = field(repr=False)

    @classmethod
    def run(cls, config: configs.RankConfig) -> RankResult:
        """Orders the items."""
        from ssltool.stages.rank import run

        found = run(config)
        return cls(pd.DataFrame(found["rows"]), found["by"], found["agreement"], found["notes"], found)
