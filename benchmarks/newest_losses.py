"""Do the newest losses see collapse? Their terms, and other measures, on normal rows that lose dimensions or scale.

    python benchmarks/newest_losses.py [--sizes 256,4096] [--width 128] [--draws 10] [--plot FILE]

The rows are standard normal, N x d. Three kinds of collapse: ``dimensions`` sets a share of the dimensions to 0;
``subspace`` projects the rows onto a random subspace of as many dimensions and restores the variance, so that each
dimension keeps variance 1 on average; ``scale`` multiplies all rows by (1 - share). The values are means over draws.
``SIGReg`` is the loss of LeJEPA, with its z-score; ``shape`` is the sliced term of VISReg, with its z-score, and
``VISReg`` its three terms with weights of 1.
"""

from __future__ import annotations

import click
import numpy as np
import torch
from torch import Tensor

from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.metrics.of_slices import slice_directions
from ssltool.methods.visreg import visreg_regularisation

SHARES = (0.0, 0.125, 0.25, 0.5, 0.75, 0.875, 63 / 64, 1.0)
NAMES = ("sigreg", "sigreg_z", "sliced_w2", "sliced_w2_z", "w2_uniformity", "coding_rate", "effective_rank")
COLUMNS = {
    "SIGReg": "sigreg",
    "z": "sigreg_z",
    "VISReg": "visreg",
    "shape": "sliced_w2",
    "z of shape": "sliced_w2_z",
    "W2 uniformity": "w2_uniformity",
    "coding rate": "coding_rate",
    "effective rank": "effective_rank",
}


def dimensions(x: Tensor, share: float) -> Tensor:
    """Some dimensions are constant."""
    lost = round(share * x.shape[1])
    return torch.cat([x[:, lost:], torch.zeros_like(x[:, :lost])], dim=1)


def subspace(x: Tensor, share: float) -> Tensor:
    """The rows lie in a random subspace, and no dimension is constant."""
    d = x.shape[1]
    kept = d - round(share * d)
    basis = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(1), dtype=x.dtype)).Q[:kept]
    return x[:, :kept] @ basis * (d / max(kept, 1)) ** 0.5


def scale(x: Tensor, share: float) -> Tensor:
    """All rows shrink towards 0."""
    return (1 - share) * x


KINDS = {"dimensions": dimensions, "subspace": subspace, "scale": scale}


def values(x: Tensor) -> dict[str, float]:
    """The measures of rows (N, d)."""
    found = measure(x, NAMES).metrics
    return found | {"visreg": float(visreg_regularisation(x, slice_directions(x.shape[1])))}


def draw(found: dict[tuple[str, int, float], dict[str, float]], width: int, path: str) -> None:
    """Plots each measure against the share that is lost: a line for each kind of collapse and number of rows."""
    from matplotlib.figure import Figure

    from ssltool.viz.style import figure_style, legend, light_grid, line_style, log_scale, save_figure

    lines = list(dict.fromkeys((kind, n) for kind, n, _ in found))
    styles = [line_style(list(KINDS).index(kind)) | {"alpha": 1.0 if n == lines[0][1] else 0.45} for kind, n in lines]
    with figure_style():
        shown = {title: name for title, name in COLUMNS.items() if not title.startswith("z")}
        figure = Figure(figsize=(10.8, 5.8), layout="constrained")
        for axis, (title, name) in zip(figure.subplots(2, 3).flatten(), shown.items(), strict=True):
            for (kind, n), style in zip(lines, styles, strict=True):
                axis.plot(SHARES, [found[kind, n, share][name] for share in SHARES], **style)
            axis.set(title=title, xlabel="share that is lost")
            if name in ("sigreg", "sliced_w2", "visreg"):
                log_scale(axis, "y")
            light_grid(axis)
        legend(figure, [f"{kind}, {n:,} rows" for kind, n in lines], styles)
        save_figure(figure, path)


@click.command(help=__doc__)
@click.option("--sizes", default="256,4096", help="numbers of rows")
@click.option("--width", default=128)
@click.option("--draws", default=10)
@click.option("--threads", default=1)
@click.option("--plot", type=click.Path(dir_okay=False), help="figure to write: .png, .pdf or .svg")
def main(sizes: str, width: int, draws: int, threads: int, plot: str | None) -> None:
    """Prints a table for each kind of collapse and number of rows."""
    torch.set_num_threads(threads)
    found: dict[tuple[str, int, float], dict[str, float]] = {}
    for n in map(int, sizes.split(",")):
        rows = [torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).double() for seed in range(draws)]
        for kind, collapse in KINDS.items():
            print(f"\n{kind}, {n:,} rows of width {width}\n")
            print(f"| lost | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
            for share in SHARES:
                each = [values(collapse(x, share)) for x in rows]
                mean = {name: float(np.mean([of[name] for of in each])) for name in COLUMNS.values()}
                found[kind, n, share] = mean
                cells = [f"{mean[name]:.3g}" for name in COLUMNS.values()]
                print(f"| {share:.1%} | {' | '.join(cells)} |", flush=True)
    if plot:
        draw(found, width, plot)


if __name__ == "__main__":
    main()
