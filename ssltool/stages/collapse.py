"""The collapse stage: representations in; spectra, metrics and verdicts out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

import ssltool
from ssltool.config.collapse import CollapseConfig
from ssltool.config.common import SPECTRA, STATES
from ssltool.diagnosis import metrics
from ssltool.diagnosis.measure import Measured, growth, intervals, measure
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.spectrum_file import Spectrum
from ssltool.diagnosis.verdict import NEEDED, Thresholds, Verdict, compare, judge_measured
from ssltool.errors import SSLToolError, UsageError
from ssltool.files import file_hash
from ssltool.reprs.representations import Representations
from ssltool.runs.display_names import display_names
from ssltool.runs.tables import file_rows, means_of_groups, write_table
from ssltool.training.device import pick_device
from ssltool.training.progress import has_bars, is_quiet


@dataclasses.dataclass(frozen=True)
class _Asked:
    """The settings, read and checked before anything is computed."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    thresholds: Thresholds
    device: torch.device
    table: Path | None
    folder: Path | None


@dataclasses.dataclass(frozen=True)
class _Set:
    """One set of representations: the file it comes from, or the files it is merged from."""

    paths: tuple[str, ...]
    stored: list[Representations]

    @property
    def name(self) -> str:
        return self.paths[0] if len(self.paths) == 1 else f"{self.paths[0]} and {len(self.paths) - 1} more"

    @property
    def meta(self) -> dict[str, Any]:
        return self.stored[0].meta

    def rows(self, config: CollapseConfig, device: torch.device) -> Rows:
        parts = [one.representations for one in self.stored]
        return Rows(parts, skip_nonfinite=config.skip_nonfinite, device=device, name=self.name)


def run(config: CollapseConfig) -> dict[str, Any]:
    """The stage: measures each file, or all as one with ``merge``, writes ``<stem>_[normalized_]<type>.pt`` beside it
    (or in the folder ``out``), the table ``out`` and the picture ``plot``.

    Returns:
        {"files": [{"path", "n", "d", "type", "normalized", "metrics", "verdict", "notes", "spectrum", ...}, ...],
        "worst", "plot", ...}; "worst" is the most severe state.

    Raises:
        SSLToolError: for unreadable or non-finite representations, a single row, names that are no metric or
            threshold, or a plot format that is not known. Nothing is then written.
    """
    asked = _read(config)
    sets = _open(config)
    targets = _targets(config, asked.folder, sets)
    reference = None
    if config.like is not None:
        other = _Set((config.like,), [Representations.stored(config.like)])
        reference = _measure(other.rows(config, asked.device), config, asked)
    results, found = [], []
    for one in sets:
        rows = one.rows(config, asked.device)  # once: they remember that they were looked through
        measured = _measure(rows, config, asked)
        found.append(measured)
        results.append(_result(one, measured, config, asked, reference) | _spread(rows, measured, config, asked))
    for one, measured, result, paths in zip(sets, found, results, targets, strict=True):
        for kind, path in paths.items():
            _spectrum(one, measured, kind, config).save(path)
        result["spectra"] = {kind: str(path) for kind, path in paths.items()}
        result["spectrum"] = str(next(iter(paths.values())))
    document: dict[str, Any] = {"files": results, "plot": config.plot}
    document["worst"] = max((result["verdict"]["state"] for result in results), key=STATES.index)
    if config.group_by is not None:
        document["groups"] = means_of_groups(results, config.group_by, asked.names)
    if config.plot is not None:
        _plot(config, sets, found)
    if asked.table is not None:
        write_table(asked.table, document, file_rows(results))
    return document


def _read(config: CollapseConfig) -> _Asked:
    config.check()
    device = pick_device(config)
    if device.type == "mps":  # which has no float64
        device = torch.device("cpu")
    out = None if config.out is None else Path(config.out)
    is_table = out is not None and out.suffix.lower() in (".csv", ".json")
    if out is not None and not is_table and out.is_file():
        raise SSLToolError(f"--out {out} is a file; name a folder for the spectra, or a .csv or .json file")
    names = metrics.metric_names(config.metrics)
    if config.subsample is not None and not any(name in metrics.QUICK for name in names):
        raise UsageError(f"--subsample needs one of these among --metrics: {', '.join(metrics.QUICK)}")
    return _Asked(
        names=names,
        sizes=config.subsample_sizes,
        thresholds=Thresholds.parse(config.threshold),
        device=device,
        table=out if is_table else None,
        folder=None if is_table else out,
    )


def _open(config: CollapseConfig) -> list[_Set]:
    stored = [Representations.stored(path) for path in config.files]
    if config.merge:
        return [_Set(tuple(config.files), stored)]
    return [_Set((path,), [one]) for path, one in zip(config.files, stored, strict=True)]


def _measure(rows: Rows, config: CollapseConfig, asked: _Asked) -> Measured:
    names = asked.names
    if config.metrics == "all":
        names = metrics.metric_names("all", views=rows.views is not None)
    total = sum(map(len, rows.parts))
    with tqdm(
        total=total, desc=rows.name, unit="row", unit_scale=True, leave=False, disable=is_quiet() or not has_bars()
    ) as bar:
        return measure(
            rows,
            tuple(dict.fromkeys((*names, *NEEDED))),
            normalize=config.normalize,
            pair_rows=config.pair_rows,
            seed=config.seed,
            each=bar.update,
        )


def _result(
    one: _Set, measured: Measured, config: CollapseConfig, asked: _Asked, reference: Measured | None
) -> dict[str, Any]:
    shown = _shown(measured, config, asked)
    verdict = judge_measured(measured, one.meta, asked.thresholds)
    result: dict[str, Any] = {
        "path": one.name,
        "n": measured.n,
        "d": measured.d,
        "type": config.type,
        "normalized": config.normalize,
        "metrics": {name: measured.metrics[name] for name in shown},
        **measured.details,
        "notes": measured.notes + _repeated_images(one),
        "origin": {key: one.meta[key] for key in ORIGIN if key in one.meta},
    }
    if reference is not None:
        verdict = compare(verdict, measured.metrics, reference.metrics, str(config.like), asked.thresholds)
        result["like"] = {name: reference.metrics.get(name) for name in shown}
    result["verdict"] = _as_dict(verdict, measured.dead)
    return result


def _shown(measured: Measured, config: CollapseConfig, asked: _Asked) -> list[str]:
    """What was asked for of what was measured; the verdict needs more."""
    return [name for name in measured.metrics if name in asked.names or config.metrics == "all"]


def _spread(rows: Rows, measured: Measured, config: CollapseConfig, asked: _Asked) -> dict[str, Any]:
    """How far the numbers are to be trusted, as far as was asked: "intervals" and "subsamples"."""
    shown, result = _shown(measured, config, asked), dict[str, Any]()
    settings: dict[str, Any] = {"normalize": config.normalize, "seed": config.seed}
    if config.bootstrap:
        found = intervals(rows, measured, config.bootstrap, **settings)
        result["intervals"] = {name: found[name] for name in shown if name in found}
    if asked.sizes:
        result["subsamples"] = growth(rows, asked.sizes, shown, **settings)
    return result


ORIGIN = ("checkpoint", "method", "arch", "strategy", "epoch", "layer", "dataset", "split", "random")
"""What is repeated of a file's own account of itself."""


def _as_dict(verdict: Verdict, dead: Sequence[int]) -> dict[str, Any]:
    return {"state": verdict.state, "line": verdict.line, "why": verdict.why, **verdict.details, "dead": list(dead)}


def _repeated_images(one: _Set) -> list[str]:
    """Shards of a distributed sampler may hold an image twice."""
    sets = {tuple(part.meta.get(key) for key in ("dataset", "split")) for part in one.stored}
    if len(one.stored) < 2 or len(sets) > 1 or sets.pop()[0] is None:
        return []
    numbers = torch.cat([part.index for part in one.stored])
    repeated = len(numbers) - len(numbers.unique()) * (one.meta.get("places") or 1)
    return [f"{repeated:,} images are in more than one place of the merged files"] if repeated else []


def _spectrum(one: _Set, measured: Measured, kind: str, config: CollapseConfig) -> Spectrum:
    meta = {
        "source": list(one.paths) if len(one.paths) > 1 else one.paths[0],
        "source_hash": [file_hash(path) for path in one.paths] if len(one.paths) > 1 else file_hash(one.paths[0]),
        "type": kind,
        "normalized": config.normalize,
        "n": measured.n,
        "d": measured.d,
        "ssltool": ssltool.__version__,
        "representations": one.meta,
    }
    return Spectrum(measured.spectrum(kind), measured.metrics, meta)


def _targets(config: CollapseConfig, folder: Path | None, sets: Sequence[_Set]) -> list[dict[str, Path]]:
    middle = "normalized_" if config.normalize else ""
    kinds = SPECTRA if config.type == "all" else (config.type,)
    targets = []
    for one in sets:
        source = Path(one.paths[0])
        stem = source.name.removesuffix(".pt") + ("_merged" if len(one.paths) > 1 else "")
        targets.append({kind: (folder or source.parent) / f"{stem}_{middle}{kind}.pt" for kind in kinds})
    if len({path for paths in targets for path in paths.values()}) < len(kinds) * len(targets):
        raise SSLToolError(
            "two inputs would write the same spectrum file; give them different names, or leave --out away"
        )
    return targets


def _plot(config: CollapseConfig, sets: Sequence[_Set], found: Sequence[Measured]) -> None:
    from ssltool.viz.spectra import plot_spectra

    kind = "svd" if config.type == "all" else config.type
    names = display_names([one.paths[0] for one in sets])
    plot_spectra(names, [measured.spectrum(kind) for measured in found], str(config.plot), kind=kind)
