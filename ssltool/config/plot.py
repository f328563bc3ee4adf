"""The settings of ``ssltool plot``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.config.fields import FIGURES, LAYERS, SPECTRA, image_folder, output, pool_rows, wrong_suffix
from ssltool.errors import UsageError
from ssltool.settings import Checked, Rule, setting
from ssltool.viz import PLOTS

AGAINST = ("images", "epoch", "step", "accuracy")
GROUPED = ("arch", "method", "strategy")


@dataclass(frozen=True)
class PlotConfig(Checked):
    """Settings of ``ssltool plot``."""

    kind: str = setting("spectrum", "kind of plot", choices=PLOTS)
    inputs: tuple[str, ...] = setting((), "spectra or representations, or run folders")
    type: str = setting(
        "svd",
        "spectrum: singular values (svd), eigenvalues of the covariance (cov) or standard deviations of the dimensions "
        "(std)",
        choices=SPECTRA,
    )
    pool: str | None = pool_rows()
    x: str = setting(
        "images",
        "auc: horizontal axis: different training images seen, epochs, steps, or kNN accuracy of the backbone",
        choices=AGAINST,
    )
    group_by: str = setting("arch", "auc: setting that the runs of one line share", choices=GROUPED)
    layer: str = setting(
        "backbone", f"auc: layer: {', '.join(LAYERS[:2])}, or one that a monitor names", metavar="LAYER"
    )
    rows: int = setting(6, "views, patches: number of images", minimum=1)
    epoch: int = setting(1, "views: epoch whose first step is shown, counted from 1", minimum=1)
    patch: str | None = setting(
        None,
        "patches: patch to which cosines are shown, counted from 0 at the top left [default: the one in the middle]",
        metavar="ROW,COL",
    )
    data: str | None = image_folder("views, patches, schedule: folder of the images [default: the run's]")
    out: str | None = output("figure to write: .png, .pdf or .svg")

    @property
    def patch_place(self) -> tuple[int, int] | None:
        """Row and column in ``patch``, None by default.

        Raises:
            UsageError: if they are not two numbers.
        """
        if self.patch is None:
            return None
        try:
            row, column = (int(text) for text in self.patch.split(","))
        except ValueError as error:
            raise UsageError(f"--patch {self.patch}: give a row and a column, as in 3,5") from error
        return row, column

    def conflicts(self) -> list[Rule]:
        used_by: dict[str, list[str]] = {}
        for kind, plot in PLOTS.items():
            for name in plot.settings:
                used_by.setdefault(name, []).append(kind)
        return [
            *super().conflicts(),
            *(
                ((name,), self.kind not in kinds, f"with plot {self.kind}; it is for plot {' and '.join(kinds)}")
                for name, kinds in used_by.items()
            ),
        ]

    def mistakes(self) -> Iterator[str]:
        if not self.inputs:
            yield f"plot {self.kind} needs at least one input"
        if PLOTS[self.kind].one_input and len(self.inputs) > 1:
            yield f"plot {self.kind} takes {PLOTS[self.kind].inputs}; found {len(self.inputs)} inputs"
        if self.patch is not None and min(self.patch_place or (0, 0)) < 0:
            yield f"--patch {self.patch}: rows and columns are counted from 0"
        if self.out is None:
            yield f"name the figure with --out FILE, which must end in {' or '.join(FIGURES)}"
        yield from wrong_suffix("out", self.out, *FIGURES)
