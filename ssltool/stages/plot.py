"""The plot stage: figures of spectra and runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssltool.config import PlotConfig
from ssltool.data.workers import killed_workers
from ssltool.viz import PLOTS

if TYPE_CHECKING:
    from ssltool.settings import Record


@killed_workers()
def run(config: PlotConfig) -> Record:
    """The stage: plots ``config.inputs`` to the file ``config.out``.

    Returns:
        {"path", "kind", "inputs"}, and "images", what was found, if the plot reads images.

    Raises:
        SSLToolError: for inputs of another type, a setting that the plot does not use, or a file that cannot be
            written.
    """
    config.check()
    out = str(config.out)
    more = PLOTS.load(config.kind)(config, out)
    return {"path": out, "kind": config.kind, "inputs": list(config.inputs)} | (more or {})
