"""Regularisers as a part of the objective of any method: ``--regularise``.

A method does not know of them. Hooks keep the outputs of its layers for the first view of the student. Outside a step
they do nothing. A method that takes tokens or a feature map from its backbone computes no such output: the rows are
then those that it is evaluated by, ``Method.outputs``, of a further forward pass of the first view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.errors import UsageError
from ssltool.methods.base import Method, Output
from ssltool.methods.regularisers import REGULARISERS, Term
from ssltool.training.distributed import gather


class Regularised(nn.Module):
    """A method whose output has the ``terms`` of regularisers.

    A regulariser of rows takes those of the first view of the student, of the batches of all ranks. One of weights
    takes those of the linear and convolutional layers.

    Raises:
        UsageError: if the method does not have a layer.
    """

    def __init__(self, name: str, method: Method, terms: Sequence[Term]) -> None:
        super().__init__()
        self.name, self.method, self.terms = name, method, tuple(terms)
        of_rows = [term.layer for term in terms if REGULARISERS[term.name].of == "rows"]
        self._layers_of_rows = tuple(dict.fromkeys(of_rows))
        self._functions = [REGULARISERS.load(term.name) for term in terms]
        self._kept: dict[str, Tensor] | None = None
        for layer in dict.fromkeys(term.layer for term in terms):
            module = getattr(method, layer, None)
            if not isinstance(module, nn.Module) or isinstance(module, nn.Identity):
                has = ", ".join(method.measured_layers)
                raise UsageError(f"--regularise @{layer}: {name} has no {layer}; it has {has}")
            module.register_forward_hook(self._keeper(layer))

    def _keeper(self, layer: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._kept is not None and layer not in self._kept and torch.is_grad_enabled():
                self._kept[layer] = output

        return keep

    def forward(self, batch: Batch) -> Output:
        """The output of the method, and the terms."""
        self._kept = {}
        output = self.method(batch)
        kept, self._kept = self._kept, None
        rows = {layer: gather(self._rows(layer, kept, batch).float()) for layer in self._layers_of_rows}
        terms = zip(self.terms, self._functions, strict=True)
        values = tuple(term.factor * function(self._argument(term, rows)) for term, function in terms)
        return cast(Output, output._replace(terms=values))

    def _argument(self, term: Term, rows: dict[str, Tensor]) -> Tensor | list[Tensor]:
        if REGULARISERS[term.name].of == "weights":
            return weights_of(getattr(self.method, term.layer))
        return rows[term.layer]

    def _rows(self, layer: str, kept: dict[str, Tensor], batch: Batch) -> Tensor:
        """The rows (N, D) of ``layer`` for the first view."""
        rows, first = kept.get(layer), 0
        if rows is None or rows.dim() != 2:
            rows = self.method.outputs(batch.views[0], layer)[layer]
        elif batch.support is not None:
            first = len(batch.support.rows)  # labelled images precede the views
        return rows[first : first + len(batch.rows)]


def weights_of(module: nn.Module) -> list[Tensor]:
    """The trainable weights of the linear and convolutional layers of a module."""
    layers = [part for part in module.modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
    return [layer.weight for layer in layers if layer.weight.requires_grad]


def regularised(name: str, method: Method, terms: Sequence[Term], accumulate: int) -> nn.Module:
    """The method ``name``, with the terms of regularisers if there are any.

    Raises:
        UsageError: if the method does not have a layer, or micro-batches would change a term.
    """
    comparing = [term.name for term in terms if REGULARISERS[term.name].of == "rows"]
    if accumulate > 1 and comparing:
        raise UsageError(
            f"--accumulate {accumulate} would change --regularise {comparing[0]}, which compares the images of a batch "
            "with one another; leave one of them out"
        )
    return Regularised(name, method, terms) if terms else method
