"""Multinomial logistic regression on features that do not change: one optimum, whatever the seed and the rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool.errors import SSLToolError

BLOCK = 64 * 2**20
"""Bytes of features that are multiplied at a time; bounds the memory."""

SAMPLE = 8
"""Rows for each dimension that say where the features are white."""

RIDGE = 1e-12
"""What is added to curvatures, as a share of their mean, so that none is 0."""

NOT_FINITE = "the features hold values that are not finite, or too large to be multiplied; standardise them"

SLACK = 64 * float(np.finfo(np.float64).eps)
"""Relative gain of an iteration below which the optimum is reached, as scikit-learn has it."""


@dataclass(frozen=True)
class Logistic:
    """A classifier: ``weight`` (C, d) and ``bias`` (C,), float64, on the CPU, for the labels ``classes`` (C,), which
    increase; whether it is the optimum, and the iterations that it took."""

    weight: Tensor
    bias: Tensor
    classes: Tensor
    converged: bool
    iterations: int

    def predict(self, x: Tensor) -> Tensor:
        """The label (N,) of each row of ``x`` (N, d)."""
        return self.classes[F.linear(x.cpu().double(), self.weight, self.bias).argmax(dim=1)]


def logistic_regression(
    x: Tensor,
    y: Tensor,
    *,
    c: float = 1.0,
    tolerance: float = 1e-4,
    max_iter: int = 1000,
    start: Logistic | None = None,
) -> Logistic:
    """The classifier of the rows of ``x`` (N, d) with labels ``y`` (N,), any integers, that minimises

        |W|^2 / 2 + c sum_i -log softmax(W x_i + b)[y_i]

    by L-BFGS (scipy's). That is scikit-learn's ``LogisticRegression(C=c)``; for two classes its W is the difference of
    the two rows here. The arithmetic is in the precision and on the device of ``x``, the sums in float64, and a block
    of rows at a time, so that a mapped file may be larger than memory. The steps are taken where the features are about
    white, which needs far fewer of them; it has ``converged`` where no element of the gradient there, of the mean loss
    and penalty, is above ``tolerance``. ``start`` is a solution to begin from, of the same classes.

    Raises:
        SSLToolError: for one class only, or where ``x`` holds values that are not finite.
    """
    classes, places = y.unique(return_inverse=True)
    if len(classes) < 2:
        raise SSLToolError(f"all {len(y)} rows are of class {int(classes[0])}; a classifier needs two classes or more")
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    # Both rows of a two-class problem bear half the difference: twice their penalty is that of the difference.
    problem = _Problem(x, places.to(x.device), len(classes), c / 2 if len(classes) == 2 else c)
    first = torch.zeros(len(classes), x.shape[1] + 1, dtype=torch.float64)
    if start is not None:
        first = torch.cat([start.weight, start.bias[:, None]], dim=1)
    options = {"maxiter": max_iter, "maxls": 50, "gtol": tolerance, "ftol": SLACK}
    white = (first @ problem.root).numpy().ravel()
    found = scipy.optimize.minimize(problem, white, method="L-BFGS-B", jac=True, options=options)
    theta = problem.linear(found.x)
    return Logistic(theta[:, :-1], theta[:, -1], classes.cpu(), bool(found.success), int(found.nit))


class _Problem:
    """The objective divided by ``c`` N, and its gradient, as functions of V = [W | b] R (C, d + 1), raveled.

    R R^T is the second derivative by a row of [W | b] where all classes are equally likely, of a sample of the rows:
    V has about the same curvature in all directions, however unequal those of the features are.
    """

    def __init__(self, x: Tensor, places: Tensor, classes: int, c: float) -> None:
        self.x, self.places, self.classes = x, places, classes
        self.penalty = 1.0 / (c * len(x))
        sample = x[:: max(1, len(x) // (SAMPLE * x.shape[1]))].cpu().double()
        sample = torch.cat([sample, torch.ones(len(sample), 1, dtype=torch.float64)], dim=1)
        curvature = (1 - 1 / classes) / classes * (sample.T @ sample) / len(sample)
        curvature.diagonal()[:-1] += self.penalty
        curvature.diagonal().add_(RIDGE * float(curvature.trace()) / len(curvature))
        if not bool(curvature.isfinite().all()):
            raise SSLToolError(NOT_FINITE)
        self.root = torch.linalg.cholesky(curvature)

    def linear(self, white: np.ndarray) -> Tensor:
        """[W | b] of V."""
        point = torch.from_numpy(np.array(white)).view(self.classes, -1)
        return torch.linalg.solve_triangular(self.root, point, upper=False, left=False)

    def __call__(self, white: np.ndarray) -> tuple[float, np.ndarray]:
        point = self.linear(white)
        here = point.to(self.x)
        weight, bias = here[:, :-1].contiguous(), here[:, -1].contiguous()
        loss, gradient = 0.0, torch.zeros_like(point)
        for rows, places in self._blocks():
            logs = F.linear(rows, weight, bias).log_softmax(dim=1)
            own = logs.gather(1, places[:, None])
            loss -= float(own.sum(dtype=torch.float64))
            off = logs.exp_().scatter_add_(1, places[:, None], torch.full_like(own, -1.0))
            gradient[:, :-1] += (off.T @ rows).cpu()
            gradient[:, -1] += off.sum(dim=0).cpu()
        gradient /= len(self.x)
        gradient[:, :-1] += self.penalty * point[:, :-1]
        value = loss / len(self.x) + 0.5 * self.penalty * float(point[:, :-1].square().sum())
        if not np.isfinite(value):
            raise SSLToolError(NOT_FINITE)
        gradient = torch.linalg.solve_triangular(self.root.T, gradient, upper=True, left=False)
        return value, gradient.numpy().ravel()

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        size = max(1, BLOCK // (self.x.shape[1] * self.x.element_size()))
        for low in range(0, len(self.x), size):
            yield self.x[low : low + size], self.places[low : low + size]
