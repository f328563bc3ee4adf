"""The plot stage: spectra, runs or a run's settings in, one picture out."""

from __future__ import annotations

from typing import Any

from ssltool.config import PlotConfig
from ssltool.viz import PLOTS


def run(config: PlotConfig) -> dict[str, Any]:
    """The stage: draws ``config.kind`` of ``config.inputs`` into ``config.out``.

    Returns:
        {"path", "kind", "inputs"}.

    Raises:
        SSLToolError: for inputs of another kind than the plot's, a flag that has no effect on it, or a picture that
            cannot be written.
    """
    config.check()
    out = str(config.out)
    PLOTS.load(config.kind)(config, out)
    return {"path": out, "kind": config.kind, "inputs": list(config.inputs)}
