"""``ssltool plot spectrum``: spectra of representations."""

from __future__ import annotations

from torch import Tensor

from ssltool.config import PlotConfig
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.spectrum_file import Spectrum
from ssltool.errors import SSLToolError
from ssltool.reprs.readers import read_entries
from ssltool.reprs.representations import Representations
from ssltool.runs.display_names import display_names
from ssltool.viz.spectra import plot_spectra


def draw(config: PlotConfig, out: str) -> None:
    """Plots the spectrum of each input."""
    values = [read_spectrum(path, config.type, config.pool) for path in config.inputs]
    plot_spectra(display_names(config.inputs), values, out, kind=config.type)


def read_spectrum(path: str, kind: str, pool: str | None = None) -> Tensor:
    """The spectrum of type ``kind`` from a file of spectra or representations: values of the directions that the layer
    can have. ``pool`` says how several rows of an image are read.

    Raises:
        SSLToolError: if the file has another type of spectrum and cannot be converted.
    """
    entries = read_entries(path)
    if "stds" not in entries:
        stored = Representations.of(entries, path, pool)
        rows = Rows([stored.representations], name=path)
        return measure(rows, ("auc",), bound=stored.meta.get("directions")).possible(kind)
    if pool is not None:
        raise SSLToolError(f"{path} is a spectrum, for which --pool has no effect; leave it out")
    spectrum = Spectrum.load(path)
    found = spectrum.meta.get("type", "svd")
    if found == kind:
        return spectrum.possible()
    if (found, kind) != ("svd", "cov"):
        raise SSLToolError(f"{path} has a spectrum of type {found}, not {kind}; give the representations instead")
    if "n" not in spectrum.meta:
        raise SSLToolError(f"{path} has no number of rows, which --type cov requires; give the representations")
    return spectrum.possible().double().square() / max(1, spectrum.meta["n"] - 1)
