"""What the probe tries, how it chooses among that, and what its run is called."""

from __future__ import annotations

from pathlib import Path

from ssltool.checkpoints.load import default_run_name
from ssltool.config import LinclsConfig
from ssltool.settings import numbers
from ssltool.training import distributed


def rates(config: LinclsConfig) -> tuple[float, ...]:
    """The learning rates that are tried, for a batch of 256."""
    return (config.lr,) if config.lr_sweep is None else numbers(config.lr_sweep, "lr_sweep")


def penalties(config: LinclsConfig) -> tuple[float, ...]:
    """The C that are tried, in increasing order, so that each may begin from the one before it."""
    return (config.c,) if config.c_grid is None else tuple(sorted(numbers(config.c_grid, "c_grid")))


def best(values: tuple[float, ...], scores: list[float | None]) -> int:
    """The place of the best score, of the smallest value among equals; None is no score.

    Raises:
        ValueError: if there is no score at all.
    """
    scored = enumerate(zip(scores, values, strict=True))
    return max((score, -value, place) for place, (score, value) in scored if score is not None)[2]


def note_edge(flag: str, values: tuple[float, ...], chosen: int) -> None:
    """Says where the best is the first or the last of those that were tried."""
    edge = {min(values): "smallest", max(values): "largest"}.get(values[chosen])
    if edge and len(values) > 1:
        distributed.rank_zero_info(
            f"note: the best of {flag} is its {edge}, {values[chosen]:g}; beyond it may be a better one"
        )


def default_name(config: LinclsConfig) -> str:
    """The run folder's name: of the run that was pretrained, or of the file that is learnt from."""
    if config.reprs is not None:
        path = Path(config.reprs[0]).resolve()
        return f"lincls-{path.parent.name}-{path.stem}"
    return default_run_name("lincls", config)
