"""The registry of what ``diagnose`` looks for in a log. Each entry is a pure function of a ``Series``.

The target is ``find(series) -> list[Finding]``. The order is that of reports in which findings are equally severe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssltool.config.fields import STATES
from ssltool.registry import Registry

if TYPE_CHECKING:
    from ssltool.stages.diagnose.findings.finding import Finding
    from ssltool.stages.diagnose.series import Series


@dataclass(frozen=True)
class Search:
    """A function that looks for some ``kinds`` of findings (``target``), and what it looks for (``criterion``)."""

    target: str | Callable[[Series], list[Finding]]
    kinds: tuple[str, ...]
    criterion: str


FINDINGS: Registry[Search] = Registry(
    "finding",
    __name__,
    {
        "nonfinite": Search(
            ".nonfinite_loss:find", ("nonfinite",), "the loss or a term is NaN or infinite, from which step on"
        ),
        "known-loss": Search(
            ".constant_loss:find",
            ("uniform-output", "constant-output", "no-variance", "uncorrelated-views"),
            "the loss or a term stands at a value that means equal outputs, within 0.1 %, until the end of the log",
        ),
        "spread": Search(
            ".output_spread:find", ("constant-output",), "the logged standard deviation of the outputs is near 0"
        ),
        "divergence": Search(
            ".loss_shape:divergence", ("divergence",), "the loss ends far above its beginning and its best value"
        ),
        "rate": Search(
            ".learning_rate:find", ("zero-rate",), "the learning rate is 0 while the training goes on, not at its end"
        ),
        "unchanged": Search(
            ".loss_shape:unchanged", ("unchanged-loss",), "the loss varies by less than 0.1 % over the whole log"
        ),
        "early-plateau": Search(
            ".loss_shape:early_plateau",
            ("early-plateau",),
            "the loss fell in the first 5 % of the log and not since; a note",
        ),
        "spike": Search(".loss_shape:spikes", ("spike",), "the loss rose for a short time; a note"),
        "terms-cross": Search(
            ".term_order:find", ("terms-cross",), "the smaller of two terms of the loss became the larger; a note"
        ),
    },
)


def find(series: Series) -> list[Finding]:
    """All findings in ``series``, the most severe first."""
    found: list[Finding] = [finding for name in FINDINGS for finding in FINDINGS.load(name)(series)]
    return sorted(found, key=lambda finding: -STATES.index(finding.state))
