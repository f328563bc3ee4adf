"""The watch stage: a local page, or a table in the terminal, that follows runs. Importing the package does not import
torch or the web server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssltool.config import WatchConfig


def run(config: WatchConfig, announce: Callable[[str], object]) -> None:
    """The page; see ``serve.run``."""
    from ssltool.stages.watch.serve import run as stage

    stage(config, announce)
