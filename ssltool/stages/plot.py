"""The plot stage: spectra, runs or a run's settings in, one picture out."""

from __future__ import annotations

import dataclasses
from typing import Any

from ssltool.config import PlotConfig
from ssltool.errors import SSLToolError
from ssltool.settings import flag
from ssltool.viz import PLOTS


def run(config: PlotConfig) -> dict[str, Any]:
    """The stage: draws ``config.kind`` of ``config.inputs`` into ``config.out``.

    Returns:
        {"path", "kind", "inputs"}.

    Raises:
        SSLToolError: for inputs of another kind than the plot's, a flag that has no effect on it, or a picture that
            cannot be written.
    """
    from ssltool.viz.style import check_format

    if not config.inputs:
        raise SSLToolError(f"plot {config.kind} needs at least one input")
    if config.out is None:
        raise SSLToolError("name the picture with -o FILE, which ends in .png, .pdf or .svg")
    check_format(config.out, "--out")
    _refuse_unused(config)
    plot = PLOTS[config.kind]
    if plot.one_input and len(config.inputs) > 1:
        raise SSLToolError(f"plot {config.kind} takes {plot.inputs}; found {len(config.inputs)} inputs")
    PLOTS.load(config.kind)(config, config.out)
    return {"path": config.out, "kind": config.kind, "inputs": list(config.inputs)}


def _refuse_unused(config: PlotConfig) -> None:
    """Refuses settings that other kinds of plots use and this one does not."""
    for f in dataclasses.fields(config):
        kinds = [kind for kind, plot in PLOTS.items() if f.name in plot.settings]
        if kinds and config.kind not in kinds and getattr(config, f.name) != f.default:
            raise SSLToolError(f"{flag(f.name)} is for {' and '.join(kinds)} and does nothing with plot {config.kind}")
