"""The registry of regularisers: terms that ``--regularise`` adds to the loss of any method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ssltool.errors import UsageError, unknown
from ssltool.registry import Registry

REGULARISED_LAYERS = ("backbone", "projector")
"""The layers whose outputs or weights are regularised."""


@dataclass(frozen=True)
class Regulariser:
    """A regulariser: its function (``target``), its ``paper`` (arXiv number), its ``range``, and what it is ``of``:
    "rows" or "weights".

    The function takes the ``rows`` (N, D) of a layer, or the list of its ``weights``, and returns a scalar. One that is
    ``maximised`` is subtracted from the loss.
    """

    target: str | Callable[[Any], Any]
    paper: str
    of: str
    range: str
    maximised: bool = False


REGULARISERS: Registry[Regulariser] = Registry(
    "regulariser",
    __name__,
    {
        "vne": Regulariser(
            ".vne:von_neumann_entropy", "2304.01434", "rows", "0 equal rows .. log min(N, D) isotropic", maximised=True
        ),
        "koleo": Regulariser(
            "ssltool.methods.parts.koleo:koleo_loss", "1806.03198", "rows", "-0.69 .. 18.4 equal rows"
        ),
        "w2": Regulariser(".w2:wasserstein_uniformity", "2403.00642", "rows", "0 isotropic .. 1.41 equal rows"),
        "ldreg": Regulariser(
            ".ldreg:log_local_dimension",
            "2401.10474",
            "rows",
            "0 a line .. log D isotropic, and below 0 if rows repeat",
            maximised=True,
        ),
        "orthogonality": Regulariser(
            ".orthogonality:orthogonality_loss", "2411.00392", "weights", "0 orthonormal rows or columns, and more"
        ),
    },
)


class Term(NamedTuple):
    """A regulariser of a run: its ``name``, its ``weight``, and the ``layer`` that it regularises."""

    name: str
    weight: float
    layer: str

    @property
    def key(self) -> str:
        """The name of its value in the records of a run."""
        return f"{self.layer}_{self.name}"

    @property
    def factor(self) -> float:
        """What its value is multiplied by before it is added to the loss."""
        return -self.weight if REGULARISERS[self.name].maximised else self.weight


def read_terms(texts: Sequence[str]) -> tuple[Term, ...]:
    """The regularisers that ``--regularise NAME=WEIGHT[@LAYER]`` names.

    Raises:
        UsageError: for a malformed text, an unknown name or layer, a weight that is not above 0, or one given twice.
    """
    terms = tuple(map(_read_term, texts))
    for number, term in enumerate(terms):
        if any((term.name, term.layer) == other[::2] for other in terms[:number]):
            raise UsageError(f"--regularise {term.name} of the {term.layer} is given twice; keep one of them")
    return terms


def _read_term(text: str) -> Term:
    name, equals, value = text.partition("=")
    value, at, layer = value.partition("@")
    if not equals:
        raise UsageError(f"--regularise {text}: write it as NAME=WEIGHT or NAME=WEIGHT@LAYER")
    if name not in REGULARISERS:
        raise unknown("regulariser", name, REGULARISERS)
    if at and layer not in REGULARISED_LAYERS:
        raise UsageError(f"--regularise {text}: the layer must be {' or '.join(REGULARISED_LAYERS)}; found {layer!r}")
    try:
        weight = float(value)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise UsageError(f"--regularise {text}: the weight must be a number greater than 0; found {value!r}")
    return Term(name, weight, layer or REGULARISED_LAYERS[0])
