"""The linear probe as logistic regression on saved representations, at the best of several C."""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.checkpoints.probe import Probe
from ssltool.config import as_dict
from ssltool.errors import SSLToolError
from ssltool.runs.folder import PROBE, RunFolder
from ssltool.settings import Record
from ssltool.stages.lincls.linear_heads import Batches, Linear, is_finite, score
from ssltool.stages.lincls.logistic import NOT_FINITE, Logistic, logistic_regression
from ssltool.stages.lincls.saved_features import SavedFeatures
from ssltool.stages.lincls.selection import best, c_values, warn_at_boundary
from ssltool.training import distributed
from ssltool.training.precision import widest_float


def solve(source: SavedFeatures, folder: RunFolder, device: torch.device) -> Record:
    """Fits, evaluates, writes the run folder and returns the result.

    With several C, the one with the best accuracy on the held-out rows is fitted again to all training rows. Ties go
    to the smallest C.
    """
    config, values = source.config, c_values(source.config)
    candidates, fit = ([], None) if config.c_grid is None else _grid_search(source, values, device)
    chosen = best(values, [record["held_acc1"] for record in candidates]) if candidates else 0
    x, y = source.matrix(with_held_out=True)
    fit = _fit(x, y, values[chosen], source, fit)
    weight, bias = _linear(source, fit, device)
    accuracies = _score(source.val(), (weight, bias), source)
    record = accuracies | _facts(values[chosen], fit)
    result: Record = record | {"epochs": None, "batch_size": None, "optimizer": "lbfgs"} | source.facts()
    if candidates:
        warn_at_boundary("--c-grid", values, chosen)
        result |= {"train_size": len(y), "held_acc1": candidates[chosen]["held_acc1"], "tried": candidates}
    result |= {"run": str(folder.path)} | source.origin
    saved = as_dict(config) | {"origin": source.origin, "identity": source.identity}
    folder.claim(saved)
    for line in (*candidates, record):
        folder.log(line)
    labels, names = torch.from_numpy(source.classes), source.class_names
    probe = Probe(weight.cpu(), bias.cpu(), saved, result, labels, class_names=names)
    folder.write(probe, folder.path / PROBE)
    return result


def _grid_search(
    source: SavedFeatures, values: tuple[float, ...], device: torch.device
) -> tuple[list[Record], Logistic | None]:
    """The held-out accuracy of each C, and the last fit. Each fit starts at the previous one."""
    x, y = source.matrix(with_held_out=False)
    candidates, fit = [], None
    for c in values:
        fit = _fit(x, y, c, source, fit)
        accuracies = _score(source.held_out(), _linear(source, fit, device), source)
        candidates.append(_facts(c, fit) | {"held_acc1": accuracies["acc1"]})
    return candidates, fit


def _score(batches: Batches, classifier: Linear, source: SavedFeatures) -> dict[str, float]:
    (accuracies,) = score(batches, [classifier], source.total_classes)
    if accuracies is None or not is_finite(classifier):
        raise SSLToolError(NOT_FINITE)
    return accuracies


def _fit(x: Tensor, y: Tensor, c: float, source: SavedFeatures, start: Logistic | None) -> Logistic:
    config = source.config
    fit = logistic_regression(x, y, c=c, max_iter=config.max_iter, start=start, shard=source.shard)
    if not fit.converged:
        advice = "raise --max-iter" if config.standardise else "add --standardise or raise --max-iter"
        distributed.rank_zero_info(
            f"warning: lbfgs did not converge at C {c:g} in {fit.iterations} iterations; {advice}"
        )
    return fit


def _facts(c: float, fit: Logistic) -> Record:
    return {"c": c, "converged": fit.converged, "iterations": fit.iterations}


def _linear(source: SavedFeatures, fit: Logistic, device: torch.device) -> Linear:
    wide = widest_float(device)
    return source.for_raw_features((fit.weight.to(device, wide), fit.bias.to(device, wide)))
