"""The settings of the stages that say what has collapsed."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.common import SPECTRA, STATES, DeviceSettings
from ssltool.settings import setting

GROUPS = ("arch", "method", "strategy", "epoch")


@dataclass(frozen=True)
class CollapseConfig(DeviceSettings):
    """Settings of ``ssltool collapse``."""

    files: tuple[str, ...] = setting((), "representations")
    type: str = setting(
        "svd",
        "spectrum to save and plot: singular values (svd), eigenvalues of the covariance (cov), per-dimension "
        "deviations (std), or all of them",
        choices=(*SPECTRA, "all"),
    )
    normalize: bool = setting(False, "scale every row to length 1 first")
    metrics: str | None = setting(
        None, "names of metrics, separated by commas, or all [default: what one pass gives]", metavar="A,B"
    )
    merge: bool = setting(False, "take all FILEs as one, as the shards of several ranks")
    skip_nonfinite: bool = setting(False, "leave rows with NaN or infinite values out, instead of refusing them")
    pair_rows: int = setting(
        10_000, "rows among which uniformity and twonn compare all pairs; of more, so many are drawn", minimum=3
    )
    bootstrap: int = setting(0, "resamples of the rows for 95 % confidence intervals; some hundred", minimum=0)
    subsample: str | None = setting(None, "also measure so many random rows, for instance 500,2000", metavar="N1,N2")
    seed: int = setting(10, "seed of resamples and subsamples", minimum=0)

    fail_on: str | None = setting(
        None, "exit with code 3 if any FILE has collapsed so far", choices=STATES[1:], section="Verdict"
    )
    threshold: tuple[str, ...] = setting(
        (),
        "move a threshold of the verdict; repeatable. docs/collapse.md lists them",
        section="Verdict",
        metavar="NAME=VALUE",
    )
    like: str | None = setting(None, "representations of a run to compare with", section="Verdict", metavar="FILE")

    group_by: str | None = setting(
        None,
        "gather rows by what the files say of themselves, with the mean of each group",
        choices=GROUPS,
        section="Output",
    )
    plot: str | None = setting(
        None, "draw the spectra into this file: .png, .pdf or .svg", section="Output", metavar="FILE"
    )
    out: str | None = setting(
        None,
        "folder for the spectrum files [default: beside each input], or a .csv or .json file for the table",
        "-o",
        section="Output",
        metavar="PATH",
    )
