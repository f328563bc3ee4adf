"""The probe at its optimum: logistic regression on saved representations; of several penalties the best is chosen."""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.checkpoints.probe import Probe
from ssltool.config import LinclsConfig, as_dict
from ssltool.files import Record
from ssltool.runs.folder import PROBE, RunFolder
from ssltool.stages.lincls.linear_heads import Linear, score
from ssltool.stages.lincls.logistic import Logistic, logistic_regression
from ssltool.stages.lincls.saved_features import SavedFeatures
from ssltool.stages.lincls.selection import best, note_edge, penalties
from ssltool.training import distributed
from ssltool.training.precision import widest_float


def solve(source: SavedFeatures, folder: RunFolder, device: torch.device) -> Record:
    """Fits, scores, writes the run folder and returns the result.

    Of several C the one that is best on the held-out rows, the smallest among equals, is fitted again to all training
    rows.
    """
    config, values = source.config, penalties(source.config)
    tried, fit = ([], None) if config.c_grid is None else _try_all(source, values, device)
    chosen = best(values, [one["held_acc1"] for one in tried]) if tried else 0
    x, y = source.matrix(everything=True)
    fit = _fit(x, y, values[chosen], config, fit)
    weight, bias = _linear(source, fit, device)
    (accuracies,) = score(source.val(), [(weight, bias)], source.counted)
    record = accuracies | _facts(values[chosen], fit)
    result: Record = record | {"epochs": None, "batch_size": None, "optimizer": "lbfgs"} | source.facts()
    if tried:
        note_edge("--c-grid", values, chosen)
        result |= {"train_size": len(y), "held_acc1": tried[chosen]["held_acc1"], "tried": tried}
    result |= {"run": str(folder.path)} | source.origin
    saved = as_dict(config) | {"origin": source.origin, "identity": source.identity}
    folder.claim(saved)
    for line in (*tried, record):
        folder.log(line)
    probe = Probe(weight.cpu(), bias.cpu(), saved, result, torch.from_numpy(source.classes))
    probe.save(folder.path / PROBE)
    return result


def _try_all(
    source: SavedFeatures, values: tuple[float, ...], device: torch.device
) -> tuple[list[Record], Logistic | None]:
    """The held-out accuracy of each C, and the last fit. Each fit starts from the one before it."""
    x, y = source.matrix(everything=False)
    tried, fit = [], None
    for c in values:
        fit = _fit(x, y, c, source.config, fit)
        (accuracies,) = score(source.held(), [_linear(source, fit, device)], source.counted)
        tried.append(_facts(c, fit) | {"held_acc1": accuracies["acc1"]})
    return tried, fit


def _fit(x: Tensor, y: Tensor, c: float, config: LinclsConfig, start: Logistic | None) -> Logistic:
    fit = logistic_regression(x, y, c=c, max_iter=config.max_iter, start=start)
    if not fit.converged:
        advice = "raise --max-iter" if config.standardise else "--standardise, or raise --max-iter"
        distributed.rank_zero_info(
            f"warning: not at the optimum of C {c:g} after {fit.iterations} iterations; {advice}"
        )
    return fit


def _facts(c: float, fit: Logistic) -> Record:
    return {"c": c, "converged": fit.converged, "iterations": fit.iterations}


def _linear(source: SavedFeatures, fit: Logistic, device: torch.device) -> Linear:
    wide = widest_float(device)
    return source.of_features((fit.weight.to(device, wide), fit.bias.to(device, wide)))
