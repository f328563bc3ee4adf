"""The collapse stage: spectra, metrics and verdicts of representations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

import ssltool
from ssltool.config.collapse import CollapseConfig
from ssltool.config.fields import SPECTRA, STATES
from ssltool.diagnosis import metrics
from ssltool.diagnosis.kinds import KINDS, NEEDS, SCALE, metrics_of
from ssltool.diagnosis.limits import Limit
from ssltool.diagnosis.measure import Measured, bootstrap_intervals, measure, subsample_metrics
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.spectrum_file import Spectrum
from ssltool.diagnosis.token_blocks import Tokens, tokens_of
from ssltool.diagnosis.verdict import NEEDED, Thresholds, Verdict, compare, is_untrained, judge_measured
from ssltool.errors import SSLToolError, UsageError
from ssltool.files.reading import file_hash
from ssltool.reprs.class_names import Labels, unified
from ssltool.reprs.readers import stem_of
from ssltool.reprs.representation_set import RepresentationSet, transform_notes
from ssltool.reprs.representations import Representations, image_name
from ssltool.reprs.same_images import MatchedRows, match_rows, repeated_images
from ssltool.reprs.same_tokens import match_tokens
from ssltool.reprs.token_set import token_set
from ssltool.runs.display_names import display_names
from ssltool.runs.tables import file_rows, means_of_groups, write_table
from ssltool.settings import Record
from ssltool.stages.collapse.untrained_reference import Reference
from ssltool.training.device import pick_device
from ssltool.training.progress import has_bars, is_quiet

ORIGIN = ("checkpoint", "method", "arch", "strategy", "epoch", "layer", "dataset", "split", "random")
"""Metadata of a file that is part of its result."""


@dataclasses.dataclass(frozen=True)
class _Request:
    """The parsed settings: the ``metrics`` to report, the ``sizes`` of subsamples, the ``limit`` of ``--fail-on``, and
    ``table`` or ``folder``, whichever ``--out`` names."""

    metrics: tuple[str, ...]
    sizes: tuple[int, ...]
    thresholds: Thresholds
    limit: Limit
    device: torch.device
    table: Path | None
    folder: Path | None


@dataclasses.dataclass(frozen=True)
class _Input:
    """A set of rows: the representations in one file, or with ``--merge`` in several."""

    paths: tuple[str, ...]
    files: list[Representations]

    @property
    def name(self) -> str:
        return self.paths[0] if len(self.paths) == 1 else f"{self.paths[0]} and {len(self.paths) - 1} more"

    @property
    def meta(self) -> Record:
        return self.files[0].meta

    def rows(self, config: CollapseConfig, request: _Request) -> Rows:
        parts = [file.representations for file in self.files]
        hint = "--skip-nonfinite leaves them out"
        used = config.metrics is not None or any(KINDS[kind].needs == "labels" for kind in request.limit.kinds)
        return Rows(
            parts,
            labels=self._labels() if used else None,
            skip_nonfinite=config.skip_nonfinite,
            hint=hint,
            device=request.device,
            name=self.name,
            image_name=self._image_name,
        )

    def _image_name(self, number: int) -> str:
        """The name of the image of a row, by its number among those of all files."""
        for file in self.files:
            if number < len(file):
                break
            number -= len(file)
        places = file.meta.get("places") or 1
        return image_name(file.paths, file.index[::places], number // places)

    def _labels(self) -> list[Tensor]:
        """The labels of each file, one for each image, in the numbers of the first file."""
        named = zip(self.paths, self.files, strict=True)
        return unified([Labels.of(path, file.targets, file.classes) for path, file in named])[0]


def run(config: CollapseConfig) -> Record:
    """The stage: measures each file, or with ``merge`` all files as one. Writes ``<stem>_[normalized_]<type>.pt``
    beside the file (or into the folder ``out``), the table ``out`` and the figure ``plot``.

    Returns:
        {"files": [{"path", "n", "d", "type", "normalized", "metrics", "verdict", "notes", "spectrum", ...}, ...],
        "worst", "failed", "plot", ...}; "worst" is the most severe state, "failed" whether ``fail_on`` is reached.
        "asked" of a file has the numbers of the kinds that ``fail_on`` names.

    Raises:
        SSLToolError: for unreadable or non-finite representations, a single row, an unknown metric, threshold or plot
            format. Nothing is written then.
    """
    request = _parse(config)
    inputs = _open(config)
    targets = _targets(config, request.folder, inputs)
    reference = _reference(config, request)
    results, measurements = [], []
    for source in inputs:
        rows = source.rows(config, request)  # built once, because they cache the check for non-finite rows
        _require(source, rows, reference, config, request)
        measured = _measure(source, rows, config, request, config.reference)
        measurements.append(measured)
        result = _result(source, measured, config, request, reference)
        results.append(result | _uncertainty(rows, measured, config, request))
    for source, measured, result, paths in zip(inputs, measurements, results, targets, strict=True):
        result["spectra"] = _save_spectra(source, measured, paths, config, result["notes"])
        result["spectrum"] = next(iter(result["spectra"].values()), None)
    document: Record = {"files": results, "plot": config.plot}
    document["worst"] = max((result["verdict"]["state"] for result in results), key=STATES.index)
    document["failed"] = any(
        request.limit.is_reached(verdict["state"], (kind["kind"] for kind in verdict["kinds"]))
        for verdict in (result["verdict"] for result in results)
    )
    if config.group_by is not None:
        document["groups"] = means_of_groups(results, config.group_by, request.metrics)
    if config.plot is not None:
        _plot(config, inputs, measurements)
    if request.table is not None:
        write_table(request.table, document, file_rows(results))
    return document


def _parse(config: CollapseConfig) -> _Request:
    config.check()
    device = pick_device(config)
    if device.type == "mps":  # MPS does not support float64
        device = torch.device("cpu")
    out = None if config.out is None else Path(config.out)
    is_table = out is not None and out.suffix.lower() in (".csv", ".json")
    if out is not None and not is_table and out.is_file():
        raise SSLToolError(f"--out {out} is a file; give a folder for spectra, or a .csv or .json file for the table")
    names = metrics.metric_names(config.metrics)
    if config.reference is not None:
        names = tuple(dict.fromkeys((*names, "cka")))
    if config.subsample is not None and not any(name in metrics.QUICK for name in names):
        raise UsageError(f"--subsample requires --metrics with at least one of {', '.join(metrics.QUICK)}")
    limit = Limit.parse(config.fail_on, "--fail-on")
    if config.metrics != "all":
        for flag, at in (("clusters", "clusters"), ("pseudo_labels", "classes")):
            _refuse_without_effect(config, flag, at, (*names, *metrics_of(limit.kinds)))
    return _Request(
        metrics=names,
        sizes=config.subsample_sizes,
        thresholds=Thresholds.parse(config.threshold),
        limit=limit,
        device=device,
        table=out if is_table else None,
        folder=None if is_table else out,
    )


def _refuse_without_effect(config: CollapseConfig, flag: str, at: str, names: Sequence[str]) -> None:
    """Raises ``UsageError`` if ``flag`` is given, and none of the metrics ``names`` takes the input ``at``."""
    taking = [name for name, metric in metrics.METRICS.items() if metric.at == at]
    if getattr(config, flag) is not None and not {*taking} & {*names}:
        raise UsageError(
            f"--{flag.replace('_', '-')} has no effect without --metrics all or one of {', '.join(taking)}"
        )


def _open(config: CollapseConfig) -> list[_Input]:
    files = [Representations.stored(path, config.pool) for path in config.files]
    if config.merge:
        return [_Input(tuple(config.files), files)]
    return [_Input((path,), [file]) for path, file in zip(config.files, files, strict=True)]


def _require(
    source: _Input, rows: Rows, reference: Reference | None, config: CollapseConfig, request: _Request
) -> None:
    """Refuses a kind in ``--fail-on`` that the file cannot show."""
    lack = "" if reference is None else reference.lack(source.meta)
    needs = {"rows"} | ({"reference"} if config.reference is not None and not lack else set())
    tokens = tokens_of(source.paths, source.files, metrics_of(request.limit.kinds))
    needs |= {"tokens"} if tokens is not None else set()
    needs |= {"labels"} if rows.labels is not None or config.pseudo_labels is not None else set()
    hints = {"reference": f"the untrained network as --reference; {config.reference} is not: {lack}"} if lack else {}
    request.limit.require(needs, "--fail-on", NEEDS | hints)


def _reference(config: CollapseConfig, request: _Request) -> Reference | None:
    """The file to compare with, if one is named."""
    path = config.reference or config.like
    if path is None:
        return None
    source = _Input((path,), [Representations.stored(path, config.pool)])
    alone = tuple(name for name in request.metrics if metrics.METRICS[name].at not in metrics.OF_TWO_FILES)
    alone_request = dataclasses.replace(request, metrics=alone, limit=Limit())
    return Reference(source.meta, _measure(source, source.rows(config, request), config, alone_request))


def _matched(
    source: _Input, reference: str | None, config: CollapseConfig, names: Iterable[str]
) -> tuple[Tokens | None, MatchedRows | None]:
    """The tokens of a file, if it holds tokens and one of ``names`` or the ``reference`` needs them, and its rows with
    those of the same images in ``reference``."""
    every = config.metrics == "all" or reference is not None
    tokens = tokens_of(source.paths, source.files, metrics.METRICS if every else names)
    if reference is None:
        return tokens, None
    before = None if tokens is None else token_set([reference], [Representations.stored(reference, config.pool)])
    if tokens is None or before is None:
        ours, theirs = (RepresentationSet.open(name, config.pool) for name in (source.name, reference))
        return tokens, match_rows(ours, theirs, config.same_images)
    matched, positions = match_tokens(tokens.now, before, config.same_images)
    return Tokens(tokens.now, before, positions), matched


def _measure(
    source: _Input, rows: Rows, config: CollapseConfig, request: _Request, reference: str | None = None
) -> Measured:
    names = request.metrics
    of_kinds = metrics_of(request.limit.kinds)
    tokens, matched = _matched(source, reference, config, (*names, *of_kinds))
    if config.metrics == "all":
        names = metrics.metric_names(
            "all",
            views=rows.views is not None,
            labels=rows.labels is not None or config.pseudo_labels is not None,
            reference=matched is not None,
            patches=tokens is not None and tokens.count("patch") > 0,
            class_tokens=tokens is not None and tokens.count("cls") > 0,
        )
    total = sum(map(len, rows.parts))
    with tqdm(
        total=total, desc=rows.name, unit="row", unit_scale=True, leave=False, disable=is_quiet() or not has_bars()
    ) as bar:
        return measure(
            rows,
            tuple(dict.fromkeys((*names, *NEEDED, *SCALE, *of_kinds))),
            bound=source.meta.get("directions"),
            normalize=config.normalize,
            pair_rows=config.pair_rows,
            clusters=config.clusters,
            pseudo_labels=config.pseudo_labels,
            seed=config.seed,
            matched=matched,
            tokens=tokens,
            each=bar.update,
        )


def _result(
    source: _Input, measured: Measured, config: CollapseConfig, request: _Request, reference: Reference | None
) -> Record:
    names = _reported(measured, config, request)
    numbers: Mapping[str, float] = {}
    if reference is not None and (config.reference is not None or is_untrained(reference.meta)):
        numbers = reference.numbers(measured.metrics, source.meta)
    verdict = judge_measured(measured, source.meta, request.thresholds, numbers)
    result: Record = {
        "path": source.name,
        "n": measured.n,
        "d": measured.d,
        "type": config.type,
        "normalized": config.normalize,
        "metrics": {name: measured.metrics[name] for name in names},
        **measured.details,
        "notes": measured.notes
        + _repeated_images(source, config.same_images)
        + _same_image(source)
        + transform_notes(*(file.meta for file in source.files)),
        "origin": {key: source.meta[key] for key in ORIGIN if key in source.meta},
    }
    if reference is not None:
        name = str(config.reference or config.like)
        verdict = compare(verdict, measured.metrics, reference.measured.metrics, name, request.thresholds)
        key = "like" if config.reference is None else "reference"
        result[key] = {name: reference.measured.metrics.get(name) for name in names}
    result["verdict"] = _as_dict(verdict, measured.dead)
    if request.limit.kinds:
        result["asked"] = verdict.asked(request.limit.kinds)
    return result


def _reported(measured: Measured, config: CollapseConfig, request: _Request) -> list[str]:
    """The requested metrics; the verdict may require others too."""
    return [name for name in measured.metrics if name in request.metrics or config.metrics == "all"]


def _uncertainty(rows: Rows, measured: Measured, config: CollapseConfig, request: _Request) -> Record:
    """ "intervals" and "subsamples", if requested."""
    names, result = _reported(measured, config, request), Record()
    normalize, seed, bound = config.normalize, config.seed, measured.bound
    if config.bootstrap:
        intervals = bootstrap_intervals(rows, measured, config.bootstrap, normalize=normalize, seed=seed)
        result["intervals"] = {name: intervals[name] for name in names if name in intervals}
    if request.sizes:
        result["subsamples"] = subsample_metrics(
            rows, request.sizes, names, bound=bound, normalize=normalize, seed=seed
        )
    return result


def _as_dict(verdict: Verdict, dead: Sequence[int]) -> Record:
    kinds = [kind.as_dict() for kind in verdict.kinds]
    return {"state": verdict.state, "line": verdict.line, "why": verdict.why, "kinds": kinds} | {
        **verdict.details,
        "dead": list(dead),
    }


def _repeated_images(source: _Input, by: str) -> list[str]:
    """A note on repeated images in merged files: a distributed sampler pads its shards with them."""
    repeated, why = repeated_images(source.files, by) if len(source.files) > 1 else (0, "")
    return [f"repeated images in the merged files{why and f' ({why})'}: {repeated:,}"] if repeated else []


def _same_image(source: _Input) -> list[str]:
    """A note if all images have the same content, by their digests, which files of earlier versions lack."""
    known = [file.digests for file in source.files if file.digests is not None]
    if len(known) < len(source.files):
        return []
    column = torch.cat(known)
    if len(column) < 2 or len(column.unique()) > 1:
        return []
    return [f"all {len(column):,} images are the same: equal rows show nothing about the network"]


def _spectrum(source: _Input, measured: Measured, kind: str, config: CollapseConfig) -> Spectrum:
    hashes = [file_hash(path) for path in source.paths]
    meta = {
        "source": list(source.paths) if len(source.paths) > 1 else source.paths[0],
        "source_hash": hashes if len(hashes) > 1 else hashes[0],
        "type": kind,
        "normalized": config.normalize,
        "n": measured.n,
        "d": measured.d,
        "ssltool": ssltool.__version__,
        "representations": source.meta,
    }
    return Spectrum(measured.spectrum(kind), measured.metrics, meta)


def _save_spectra(
    source: _Input, measured: Measured, paths: dict[str, Path], config: CollapseConfig, notes: list[str]
) -> dict[str, str]:
    """Writes the spectra and returns their paths by type. Beside an input whose folder is read-only none is written,
    which a note says.

    Raises:
        SSLToolError: if they cannot be written to the folder that ``--out`` names.
    """
    saved = {}
    for kind, path in paths.items():
        try:
            _spectrum(source, measured, kind, config).save(path)
        except SSLToolError as error:
            if path.parent != Path(source.paths[0]).parent:
                raise
            notes.append(f"the spectrum is not saved: {error}; --out names a folder for it")
            break
        saved[kind] = str(path)
    return saved


def _targets(config: CollapseConfig, folder: Path | None, inputs: Sequence[_Input]) -> list[dict[str, Path]]:
    """The path of each spectrum, by its type, for each input."""
    middle = "normalized_" if config.normalize else ""
    kinds = SPECTRA if config.type == "all" else (config.type,)
    targets = []
    for source in inputs:
        first = Path(source.paths[0])
        stem = stem_of(first) + ("_merged" if len(source.paths) > 1 else "")
        targets.append({kind: (folder or first.parent) / f"{stem}_{middle}{kind}.pt" for kind in kinds})
    if len({path for paths in targets for path in paths.values()}) < len(kinds) * len(targets):
        raise SSLToolError("two inputs have the same spectrum file; rename one of them, or leave out --out")
    return targets


def _plot(config: CollapseConfig, inputs: Sequence[_Input], measurements: Sequence[Measured]) -> None:
    from ssltool.viz.spectra import plot_spectra

    kind = "svd" if config.type == "all" else config.type
    names = display_names([source.paths[0] for source in inputs])
    plot_spectra(names, [measured.possible(kind) for measured in measurements], str(config.plot), kind=kind)
