"""Draws the figure of teacher_study.sh, in the folder that is its argument: the losses of the four regimes, and the
eigenvalues of the covariance of student's and teacher's outputs on a logarithmic scale."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from ssltool.viz.plot_spectrum import read_spectrum
from ssltool.viz.spectra import panels
from ssltool.viz.style import figure_style, legend, light_grid, line_style, plt, save_figure

REGIMES = ("sgd", "frozen", "copy", "ema")
TITLES = {
    "sgd": "teacher trained by the gradient",
    "frozen": "frozen teacher",
    "copy": "copy of the student after each epoch",
    "ema": "moving average",
}
OUTPUTS = 128


def losses(run: Path) -> tuple[list[int], list[float]]:
    """The steps at which the epochs of a run ended, and their mean losses."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["step"] for record in records], [record["loss"] for record in records]


def main(folder: Path) -> None:
    """Writes ``teacher_study.svg``, and prints the last losses."""
    with figure_style():
        figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
        for i, regime in enumerate(REGIMES):
            axes[0].plot(*losses(folder / regime), **line_style(i))
        axes[0].set(title="Loss", xlabel="step", ylabel="mean over an epoch")
        uniform = math.log(OUTPUTS)
        axes[0].axhline(uniform, color="black", linewidth=0.8, alpha=0.5)
        axes[0].text(0.98, uniform + 0.06, f"ln {OUTPUTS}", ha="right", transform=axes[0].get_yaxis_transform())
        axes[0].set_ylim(-0.2, 1.12 * uniform)
        (eigenvalues,) = panels("cov")
        for axis, network in zip(axes[1:], ("student", "teacher"), strict=True):
            eigenvalues(axis, [read_spectrum(str(folder / regime / f"{network}.pt"), "cov") for regime in REGIMES])
            axis.set_title(f"Eigenvalues, {network}")
        light_grid(axes[0])
        legend(figure, [TITLES[regime] for regime in REGIMES], [line_style(i) for i in range(len(REGIMES))])
        save_figure(figure, str(folder / "teacher_study.svg"))
    for regime in REGIMES:
        points = zip(*losses(folder / regime), strict=True)
        print(f"{regime:7}", ", ".join(f"{loss:.4f} to step {step}" for step, loss in points))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
