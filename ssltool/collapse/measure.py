"""The collapse stage: representations in, spectra and metrics out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

import ssltool
from ssltool.collapse import metrics
from ssltool.collapse.spectrum import factor
from ssltool.config import CollapseConfig
from ssltool.errors import SSLToolError
from ssltool.files import Representations, Spectrum, file_hash


def measure(x: Tensor, *, kind: str = "svd", normalize: bool = False) -> tuple[Tensor, dict[str, float]]:
    """The spectrum of representations (N, d) and their metrics.

    The spectrum holds singular values of the centred matrix (``svd``, (min(N, d),)) or standard deviations by dimension
    (``std``, (d,)). ``auc``, ``effective_rank`` and ``rankme`` are always those of the singular values; ``feature_std``
    looks at directions only, so ``normalize`` does not change it.
    """
    triangle = factor(x, normalize=normalize)
    s = triangle.singular_values()
    values = {
        "auc": metrics.auc(s),
        "effective_rank": metrics.effective_rank(s),
        "rankme": metrics.rankme_of_spectrum(triangle.singular_values(center=False)),
        "feature_std": metrics.feature_std(x),
    }
    return (s if kind == "svd" else triangle.deviations()), values


def run(config: CollapseConfig) -> dict[str, Any]:
    """The stage: measures each file, writes ``<stem>_[normalized_]<type>.pt`` beside it (or in ``--out``), draws
    ``--plot``.

    Returns:
        {"files": [{"path", "n", "d", "type", "normalized", "metrics", "spectrum"}, ...], "plot"}.

    Raises:
        SSLToolError: for unreadable or non-finite representations, a single row, or a plot format that is not known.
    """
    if not config.files:
        raise SSLToolError("name at least one file of representations")
    if config.plot is not None:
        from ssltool.viz.plots import check_format

        check_format(config.plot)
    targets = _targets(config)
    loaded = [Representations.load(path) for path in config.files]
    for path, representations in zip(config.files, loaded, strict=True):
        if len(representations) < 2:
            raise SSLToolError(f"{path} has {len(representations)} row(s); a spectrum needs at least 2")
    results, spectra = [], []
    for path, target, representations in zip(config.files, targets, loaded, strict=True):
        n, d = representations.representations.shape
        values, found = measure(representations.representations, kind=config.type, normalize=config.normalize)
        meta = {
            "source": str(path),
            "source_hash": file_hash(path),
            "type": config.type,
            "normalized": config.normalize,
            "n": n,
            "d": d,
            "ssltool": ssltool.__version__,
            "representations": representations.meta,
        }
        Spectrum(values, found, meta).save(target)
        spectra.append(values)
        results.append(
            {
                "path": str(path),
                "n": n,
                "d": d,
                "type": config.type,
                "normalized": config.normalize,
                "metrics": found,
                "spectrum": str(target),
            }
        )
    if config.plot is not None:
        from ssltool.viz.plots import plot_spectra

        plot_spectra(dict(zip(labels(config.files), spectra, strict=True)), config.plot, kind=config.type)
    return {"files": results, "plot": config.plot}


def _targets(config: CollapseConfig) -> list[Path]:
    middle = "normalized_" if config.normalize else ""
    targets = []
    for file in config.files:
        folder = Path(file).parent if config.out is None else Path(config.out)
        targets.append(folder / f"{Path(file).stem}_{middle}{config.type}.pt")
    if len(set(targets)) < len(targets):
        raise SSLToolError(
            "two inputs would write the same spectrum file; give them different names, or leave --out away"
        )
    return targets


def labels(paths: tuple[str, ...]) -> list[str]:
    """Short, distinct names of files for a legend: the parts of their paths in which they differ."""
    parts = [[*Path(path).parts[:-1], Path(path).stem] for path in paths]
    if len(parts) == 1:
        return [parts[0][-1]]
    width = max(map(len, parts))
    padded = [[""] * (width - len(p)) + p for p in parts]
    differing = [i for i in range(width) if len({p[i] for p in padded}) > 1]
    return ["/".join(p[i] for i in differing if p[i]) or p[-1] for p in padded]
