"""The collapse stage: spectra, metrics and verdicts of representations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ssltool.config.collapse import CollapseConfig
from ssltool.config.fields import STATES
from ssltool.diagnosis import metrics
from ssltool.diagnosis.kinds import KINDS, NEEDS, SCALE, metrics_of
from ssltool.diagnosis.limits import Limit
from ssltool.diagnosis.measure import Measured, bootstrap_intervals, measure, subsample_metrics
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.token_blocks import Tokens, tokens_of
from ssltool.diagnosis.verdict import NEEDED, Thresholds, Verdict, compare, is_untrained, judge_measured
from ssltool.errors import SSLToolError, UsageError
from ssltool.reprs.representation_set import RepresentationSet
from ssltool.reprs.same_images import MatchedRows, match_rows
from ssltool.reprs.same_tokens import match_tokens
from ssltool.reprs.token_set import token_set
from ssltool.runs.tables import file_rows, means_of_groups, write_table
from ssltool.settings import Record
from ssltool.stages.collapse.input_files import InputFiles
from ssltool.stages.collapse.saved_spectra import plot, save_spectra, spectrum_paths
from ssltool.stages.collapse.untrained_reference import EffectiveRanks, Reference
from ssltool.training import distributed
from ssltool.training.device import pick_device
from ssltool.training.progress import has_bars, is_quiet
from ssltool.training.ranks import Ranks

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


def run(config: CollapseConfig) -> Record:
    """The stage: measures each file, or with ``merge`` all files as one. Writes ``<stem>_[normalized_]<type>.pt``
    beside the file (or into the folder ``out``), the table ``out`` and the figure ``plot``.

    Under torchrun each rank reads its part of the rows, and rank 0 writes.

    Returns:
        {"files": [{"path", "n", "d", "type", "normalized", "metrics", "verdict", "notes", "spectrum", ...}, ...],
        "worst", "failed", "plot", ...}; "worst" is the most severe state, "failed" whether ``fail_on`` is reached.
        "asked" of a file has the numbers of the kinds that ``fail_on`` names.

    Raises:
        SSLToolError: for unreadable or non-finite representations, a single row, an unknown metric, threshold or plot
            format. Nothing is written then.
    """
    config.check()
    with distributed.measuring_ranks() as ranks:
        with ranks.same_errors():
            request = _parse(config)
            inputs = InputFiles.open(config.files, config.pool, merge=config.merge)
            paths = spectrum_paths(config, request.folder, inputs)
        reference = _reference(config, request, ranks)
        results, measurements = [], []
        for source in inputs:
            with ranks.same_errors():
                rows = _rows(source, config, request, ranks)  # built once: they keep which of them are finite
                _require(source, rows, reference, config, request)
            measured = _measure(source, rows, config, request, config.reference)
            measurements.append(measured)
            pair = None
            if reference is not None:
                pair = reference.effective_ranks(rows, measured, normalize=config.normalize, seed=config.seed)
            result = ranks.from_main(partial(_result, source, measured, config, request, reference, pair))
            results.append(result | _uncertainty(rows, measured, config, request))
        return ranks.from_main(lambda: _written(config, request, inputs, measurements, results, paths))


def _written(
    config: CollapseConfig,
    request: _Request,
    inputs: Sequence[InputFiles],
    measurements: Sequence[Measured],
    results: Sequence[Record],
    targets: Sequence[dict[str, Path]],
) -> Record:
    """Writes the spectra, the figure and the table; returns the document."""
    for source, measured, result, paths in zip(inputs, measurements, results, targets, strict=True):
        result["spectra"] = save_spectra(source, measured, paths, config, result["notes"])
        result["spectrum"] = next(iter(result["spectra"].values()), None)
    document: Record = {"files": results, "plot": config.plot}
    document["worst"] = max((result["verdict"]["state"] for result in results), key=STATES.index)
    document["failed"] = any(
        request.limit.is_reached(verdict["state"], (kind["kind"] for kind in verdict["kinds"]))
        for verdict in (result["verdict"] for result in results)
    )
    if config.group_by is not None:
        names = dict.fromkeys(name for result in results for name in result["metrics"])
        document["groups"] = means_of_groups(results, config.group_by, list(names))
    if config.plot is not None:
        plot(config, inputs, measurements)
    if request.table is not None:
        write_table(request.table, document, file_rows(results))
    return document


def _parse(config: CollapseConfig) -> _Request:
    device = pick_device(config, local_rank=distributed.local_rank())
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


def _rows(source: InputFiles, config: CollapseConfig, request: _Request, ranks: Ranks) -> Rows:
    """The rows of an input, with their labels if a metric may take them."""
    labels = config.metrics is not None or any(KINDS[kind].needs == "labels" for kind in request.limit.kinds)
    return source.rows(labels=labels, skip_nonfinite=config.skip_nonfinite, device=request.device, ranks=ranks)


def _require(
    source: InputFiles, rows: Rows, reference: Reference | None, config: CollapseConfig, request: _Request
) -> None:
    """Refuses a kind in ``--fail-on`` that the file cannot show."""
    lack = "" if reference is None else reference.lack(source.meta)
    needs = {"rows"} | ({"reference"} if config.reference is not None and not lack else set())
    tokens = tokens_of(source.paths, source.files, metrics_of(request.limit.kinds))
    needs |= {"tokens"} if tokens is not None else set()
    needs |= {"labels"} if rows.labels is not None or config.pseudo_labels is not None else set()
    hints = {"reference": f"the untrained network as --reference; {config.reference} is not: {lack}"} if lack else {}
    request.limit.require(needs, "--fail-on", NEEDS | hints)


def _reference(config: CollapseConfig, request: _Request, ranks: Ranks) -> Reference | None:
    """The file to compare with, if one is named."""
    path = config.reference or config.like
    if path is None:
        return None
    with ranks.same_errors():
        (source,) = InputFiles.open([path], config.pool, merge=False)
    alone = tuple(name for name in request.metrics if metrics.METRICS[name].at not in metrics.OF_TWO_FILES)
    alone_request = dataclasses.replace(request, metrics=alone, limit=Limit())
    rows = _rows(source, config, alone_request, ranks)
    return Reference(source.meta, rows, _measure(source, rows, config, alone_request))


def _matched(
    source: InputFiles, reference: str | None, config: CollapseConfig, names: Iterable[str]
) -> tuple[Tokens | None, MatchedRows | None]:
    """The tokens of a file, if it holds tokens and one of ``names`` or the ``reference`` needs them, and its rows with
    those of the same images in ``reference``."""
    every = config.metrics == "all" or reference is not None
    tokens = tokens_of(source.paths, source.files, metrics.METRICS if every else names)
    if reference is None:
        return tokens, None
    (other,) = InputFiles.open([reference], config.pool, merge=False)
    before = None if tokens is None else token_set(other.paths, other.files)
    if tokens is None or before is None:
        ours, theirs = (RepresentationSet.open(name, config.pool) for name in (source.name, reference))
        return tokens, match_rows(ours, theirs, config.same_images)
    matched, positions = match_tokens(tokens.now, before, config.same_images)
    return Tokens(tokens.now, before, positions), matched


def _measure(
    source: InputFiles, rows: Rows, config: CollapseConfig, request: _Request, reference: str | None = None
) -> Measured:
    names = request.metrics
    of_kinds = metrics_of(request.limit.kinds)
    with rows.ranks.same_errors():
        tokens, matched = _matched(source, reference, config, (*names, *of_kinds))
    if config.metrics == "all":
        rows.check()
        whole = not rows.skipped  # images lack no view or token
        names = metrics.metric_names(
            "all",
            views=whole and rows.views is not None,
            labels=rows.labels is not None or config.pseudo_labels is not None,
            reference=matched is not None,
            patches=whole and tokens is not None and tokens.count("patch") > 1,
            class_tokens=whole and tokens is not None and tokens.count("cls") > 0,
        )
    with tqdm(
        total=len(rows.span),
        desc=rows.name,
        unit="row",
        unit_scale=True,
        leave=False,
        disable=is_quiet() or not has_bars(),
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
    source: InputFiles,
    measured: Measured,
    config: CollapseConfig,
    request: _Request,
    reference: Reference | None,
    pair: EffectiveRanks | None,
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
        "notes": measured.notes + source.notes(config.same_images),
        "origin": {key: source.meta[key] for key in ORIGIN if key in source.meta},
    }
    if reference is not None and pair is not None:
        name = str(config.reference or config.like)
        verdict = compare(
            verdict,
            {**measured.metrics, "effective_rank": pair.ours},
            {"effective_rank": pair.theirs},
            name,
            request.thresholds,
            untrained=bool(is_untrained(source.meta)),
        )
        result["notes"] += pair.notes
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
