"""The settings of the stages that say what has collapsed: spectra, orders, pictures."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.settings import Checked, setting


@dataclass(frozen=True)
class CollapseConfig(Checked):
    """Settings of ``ssltool collapse``."""

    files: tuple[str, ...] = setting((), "representations")
    type: str = setting(
        "svd",
        "spectrum to save and plot: singular values (svd) or per-dimension deviations (std)",
        choices=("svd", "std"),
    )
    normalize: bool = setting(False, "scale every row to length 1 first")
    plot: str | None = setting(None, "draw the spectra into this file: .png, .pdf or .svg", metavar="FILE")
    out: str | None = setting(None, "folder for the spectrum files [default: beside each input]", "-o", metavar="PATH")
