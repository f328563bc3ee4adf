"""A diagnosis of representations in memory: metrics and a verdict in one call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.metrics import metric_names
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.verdict import NEEDED, Verdict, judge_measured
from ssltool.errors import SSLToolError


@dataclass(frozen=True)
class Diagnosis:
    """The diagnosis of ``n`` representations of width ``d``.

    Attributes:
        metrics: values by name.
        verdict: ``state``, ``line`` and ``why``.
        singular_values: (min(n, d),) of the centred matrix, float64, descending.
        notes: messages about data that make metrics misleading.
    """

    n: int
    d: int
    metrics: dict[str, float]
    verdict: Verdict
    singular_values: Tensor
    notes: list[str]

    def __str__(self) -> str:
        return self.verdict.line


def diagnose(
    x: Tensor | np.ndarray, metrics: str | None = None, labels: Tensor | np.ndarray | None = None
) -> Diagnosis:
    """The diagnosis of representations (N, d), or (N, Q, d) of views, with ``labels`` (N,); see ``ssltool.measure``."""
    rows = torch.as_tensor(x).detach()
    if not rows.is_floating_point():
        raise SSLToolError(f"representations must be floating-point numbers; found {rows.dtype}")
    names = metric_names(metrics, views=rows.dim() == 3, labels=labels is not None)
    given = Rows([rows], labels=None if labels is None else [torch.as_tensor(labels)])
    measured = measure(given, tuple(dict.fromkeys((*names, *NEEDED))))
    requested = {name: measured.metrics[name] for name in names}
    verdict = judge_measured(measured, {})
    return Diagnosis(measured.n, measured.d, requested, verdict, measured.s, measured.notes)
