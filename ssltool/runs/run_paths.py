"""Where the run folder of a training stage is: ``--out``, or a name and a number in ``logs``."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import re
from pathlib import Path
from typing import TypeVar

from ssltool.config import RunSettings
from ssltool.config.fields import AUTO
from ssltool.files.writing import writing
from ssltool.training import distributed

LOGS = Path("logs")
"""The folder of run folders."""

R = TypeVar("R", bound=RunSettings)


def run_path(settings: RunSettings, default_name: str) -> Path:
    """``--out``, or ``logs/<exp_name>_<exp_id, 4 digits>``; for ``--exp-id auto`` one more than the largest number."""
    if settings.out is not None:
        return Path(settings.out)
    name = settings.exp_name or default_name
    number = _next_number(name) if settings.exp_id == AUTO else int(settings.exp_id)
    return LOGS / f"{name}_{number:04d}"


def _next_number(name: str) -> int:
    """One more than the largest number of the run folders with this name."""
    pattern = re.compile(re.escape(name) + r"_([0-9]{4,18})")
    found = (pattern.fullmatch(path.name) for path in LOGS.glob(f"{glob.escape(name)}_*"))
    return max((int(match[1]) for match in found if match), default=-1) + 1


def with_number(settings: R, default_name: str, *, create: bool = True) -> R:
    """``settings`` with a number for ``--exp-id auto``, whose folder this process has created; else ``settings``.

    Two processes that start at once get different numbers, because only one of them can create a folder. Ranks get the
    same number. Without ``create`` the number is the one that is free now.

    Raises:
        SSLToolError: if the folder cannot be created.
    """
    if settings.exp_id != AUTO or settings.out is not None:
        return settings
    name = settings.exp_name or default_name
    number = distributed.from_rank_zero(lambda: _created_number(name)) if create else _next_number(name)
    return dataclasses.replace(settings, exp_id=number)


def _created_number(name: str) -> int:
    """The number of a new run folder with this name, which this process has created."""
    while True:
        number = _next_number(name)
        path = LOGS / f"{name}_{number:04d}"
        with writing(path):
            LOGS.mkdir(exist_ok=True)
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return number
