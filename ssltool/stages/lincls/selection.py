"""The learning rates or C of a probe, the choice of the best, and the name of the run."""

from __future__ import annotations

import os
from pathlib import Path

from ssltool.checkpoints.load import default_run_name
from ssltool.config import LinclsConfig
from ssltool.settings import numbers
from ssltool.training import distributed


def rates(config: LinclsConfig) -> tuple[float, ...]:
    """The learning rates to try, for a batch of 256."""
    return (config.lr,) if config.lr_sweep is None else numbers(config.lr_sweep, "lr_sweep")


def c_values(config: LinclsConfig) -> tuple[float, ...]:
    """The values of C to try, in increasing order, so that each fit can start at the previous one."""
    return (config.c,) if config.c_grid is None else tuple(sorted(numbers(config.c_grid, "c_grid")))


def best(values: tuple[float, ...], scores: list[float | None]) -> int:
    """The index of the highest score; ties go to the smallest value. None is a run without a score.

    Raises:
        ValueError: if all scores are None.
    """
    scored = enumerate(zip(scores, values, strict=True))
    return max((score, -value, index) for index, (score, value) in scored if score is not None)[2]


def warn_at_boundary(flag: str, values: tuple[float, ...], chosen: int) -> None:
    """Prints a note if the chosen value is the smallest or the largest one."""
    edge = {min(values): "smallest", max(values): "largest"}.get(values[chosen])
    if edge and len(values) > 1:
        distributed.rank_zero_info(
            f"note: the best value of {flag} is its {edge}, {values[chosen]:g}; a better one may lie beyond it"
        )


def default_name(config: LinclsConfig) -> str:
    """The name of the run folder, after the pretrained run or the training file."""
    if config.reprs is not None:
        path = Path(os.path.realpath(config.reprs[0]))
        return f"lincls-{path.parent.name}-{path.stem}"
    return default_run_name("lincls", config)
