"""Optional loggers: TensorBoard and Weights & Biases, imported only if enabled."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from ssltool.config import PretrainConfig, as_dict
from ssltool.errors import SSLToolError
from ssltool.settings import Record

Logger = Callable[[Record], None]


def check_loggers(config: PretrainConfig) -> None:
    """Checks that the enabled loggers are installed.

    Raises:
        SSLToolError: if a logger is not installed.
    """
    if config.tensorboard:
        _import("torch.utils.tensorboard", "tensorboard")
    if config.wandb:
        _import("wandb", "wandb")


def open_loggers(config: PretrainConfig, folder: Path) -> list[Logger]:
    """One function per enabled logger; each logs the record of an epoch.

    The files of TensorBoard are created with the first record, so that a run that fails before leaves none.
    """
    loggers: list[Logger] = []
    if config.tensorboard:
        writer = functools.cache(_import("torch.utils.tensorboard", "tensorboard").SummaryWriter)

        def to_tensorboard(record: Record) -> None:
            for name, value in record.items():
                if isinstance(value, (int, float)) and name != "epoch":
                    writer(str(folder)).add_scalar(name, value, record["epoch"])
            writer(str(folder)).flush()

        loggers.append(to_tensorboard)
    if config.wandb:
        if config.test:
            os.environ["WANDB_MODE"] = "offline"
        run = _import("wandb", "wandb").init(
            id=folder.name,
            project=f"ssltool-{config.method}",
            dir=str(folder),
            resume="allow",
            config=as_dict(config),
        )
        loggers.append(lambda record: run.log(record, step=record["epoch"]))
    return loggers


def _import(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SSLToolError(
            f"--{extra} requires a package that is not installed; run pip install 'ssltool[{extra}]'"
        ) from error
