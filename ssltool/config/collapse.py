"""The settings of ``ssltool collapse``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.config.common import CheckpointsSettings, DeviceSettings
from ssltool.config.fields import (
    FIGURES,
    METRICS,
    SPECTRA,
    limit,
    output,
    pool_rows,
    same_images,
    seed,
    thresholds,
    wrong_suffix,
)
from ssltool.errors import UsageError
from ssltool.settings import Rule, setting

GROUPS = ("arch", "method", "strategy", "epoch")


@dataclass(frozen=True)
class CollapseConfig(DeviceSettings):
    """Settings of ``ssltool collapse``."""

    files: tuple[str, ...] = setting((), "representations")
    type: str = setting(
        "svd",
        "spectrum to save and plot: singular values (svd), eigenvalues of the covariance (cov), standard deviations "
        "of the dimensions (std), or all",
        choices=(*SPECTRA, "all"),
    )
    normalize: bool = setting(False, "scale every row to length 1 first")
    metrics: str | None = setting(
        None,
        "comma-separated names of metrics; renyi: the effective ranks of the Renyi entropies; or all [default: those "
        "that one pass over the rows gives]",
        metavar="A,B",
        names=METRICS,
    )
    merge: bool = setting(False, "read all FILEs as one, for instance the files of several ranks")
    same_images: str = same_images("which images of the merged files, or of FILE and --reference, are the same")
    pool: str | None = pool_rows()
    skip_nonfinite: bool = setting(False, "leave out rows with NaN or infinite values instead of raising an error")
    pair_rows: int = setting(
        10_000,
        "maximum number of rows for metrics that are not computed in one pass; more are sampled",
        minimum=3,
    )
    clusters: int | None = setting(
        None,
        "number of k-means clusters for metrics of clusters [default: 100, or a tenth of the rows if that is less]",
        minimum=2,
        maximum=1_000_000,
        metavar="K",
    )
    pseudo_labels: int | None = setting(
        None,
        "for metrics of classes, take this number of k-means clusters instead of the labels of the file",
        minimum=2,
        maximum=1_000_000,
        metavar="K",
    )
    bootstrap: int = setting(
        0, "number of resamples for 95 % confidence intervals; use a few hundred", minimum=0, maximum=1_000_000
    )
    subsample: str | None = setting(
        None, "also measure random subsets of these sizes, for instance 500,2000", metavar="N1,N2"
    )
    seed: int = seed(
        "samples, resamples and k-means; with --layers of the sample of images, by default the checkpoint's"
    )

    fail_on: str | None = limit(
        "exit with code 3 if the collapse of any FILE is of this severity or kind", section="Verdict"
    )
    threshold: tuple[str, ...] = thresholds()
    like: str | None = setting(
        None, "representations of another run to compare with", section="Verdict", metavar="FILE"
    )

    reference: str | None = setting(
        None,
        "representations of the same images by another network, such as the untrained one or an earlier checkpoint: as "
        "--like, and prints how similar both are (cka)",
        section="Verdict",
        metavar="FILE",
    )

    group_by: str | None = setting(
        None,
        "also print the mean and standard deviation of each group of files",
        choices=GROUPS,
        section="Output",
    )
    plot: str | None = setting(
        None,
        "plot the spectra, or with --layers the metrics over the depth, to this file: .png, .pdf or .svg",
        section="Output",
        metavar="FILE",
        writes=True,
    )
    out: str | None = output(
        "folder for the spectrum files [default: that of each input], or a .csv or .json file for the table", "PATH"
    )

    @property
    def subsample_sizes(self) -> tuple[int, ...]:
        """The sizes in ``subsample``.

        Raises:
            UsageError: if they are not integers.
        """
        try:
            return tuple(int(text) for text in (self.subsample or "").split(",") if text.strip())
        except ValueError as error:
            raise UsageError(f"--subsample {self.subsample}: give numbers of rows, as in 500,2000") from error

    def conflicts(self) -> list[Rule]:
        single = not self.merge and self.reference is None
        return [*super().conflicts(), (("same_images",), single, "without --merge or --reference")]

    def mistakes(self) -> Iterator[str]:
        if not self.files:
            yield "name at least one file of representations"
        if self.subsample is not None and not self.subsample_sizes:
            yield f"--subsample '{self.subsample}': give numbers of rows, as in 500,2000"
        if self.bootstrap == 1:
            yield "--bootstrap 1: an interval needs at least 2 resamples, better a few hundred"
        if self.like is not None and self.reference is not None:
            yield "--like and --reference both name the file to compare with; use one of them"
        if self.skip_nonfinite and self.reference is not None:
            yield "--skip-nonfinite leaves out rows, and --reference compares all images; leave one out, or use --like"
        if self.merge and self.reference is not None:
            yield "--reference compares images of single files; leave out --merge, or use --like"
        if self.merge and len(self.files) < 2:
            yield "--merge reads several files as one; name more than one, or leave it out"
        yield from wrong_suffix("plot", self.plot, *FIGURES)
        if self.device == "mps":
            yield "the spectrum is computed in float64, which MPS does not support; use --device cpu"


@dataclass(frozen=True)
class CollapseLayersConfig(CheckpointsSettings):
    """Settings of ``ssltool collapse --layers``."""

    files: tuple[str, ...] = setting((), "checkpoints, or run folders of pretrain")
    teacher_key: str | None = setting(
        None,
        "network of another program's checkpoint that --layers compares with that of --key: the teacher, as in --key",
        section="Model",
        metavar="PATH",
        advanced=True,
    )
    fail_on: str | None = limit(
        "exit with code 3 if the collapse of the last layers is of this severity or kind", section="Verdict"
    )
    threshold: tuple[str, ...] = thresholds()
    plot: str | None = setting(
        None, "figure of the metrics over the depth", section="Output", metavar="FILE", writes=True
    )
    out: str | None = output(".csv or .json file for the table")

    def mistakes(self) -> Iterator[str]:
        if not self.files:
            yield "name at least one checkpoint"
        yield from wrong_suffix("plot", self.plot, *FIGURES)
        yield from wrong_suffix("out", self.out, ".csv", ".json")
