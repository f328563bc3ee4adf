"""Multinomial logistic regression on fixed features. The optimum depends on neither a seed nor a learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool.data.shard import ONE_PROCESS, Shard
from ssltool.errors import SSLToolError
from ssltool.training import distributed

BLOCK = 64 * 2**20
"""Bytes of features in a block of rows; limits the memory."""

WHITENING_ROWS = 8
"""Rows per dimension in the sample that the whitening is estimated from."""

RIDGE = 1e-12
"""Added to the diagonal of the curvature, relative to its mean, so that the matrix is positive definite."""

NOT_FINITE = "the features have values that are not finite or overflow when multiplied; standardise them"

FTOL = 64 * float(np.finfo(np.float64).eps)
"""Relative decrease of the objective below which L-BFGS stops, as in scikit-learn."""


@dataclass(frozen=True)
class Logistic:
    """A fitted classifier: ``weight`` (C, d) and ``bias`` (C,), float64 on the CPU, for the labels ``classes`` (C,) in
    increasing order; whether it ``converged``, and after how many ``iterations``."""

    weight: Tensor
    bias: Tensor
    classes: Tensor
    converged: bool
    iterations: int

    def predict(self, x: Tensor) -> Tensor:
        """The predicted label (N,) of each row of ``x`` (N, d)."""
        return self.classes[F.linear(x.cpu().double(), self.weight, self.bias).argmax(dim=1)]


def logistic_regression(
    x: Tensor,
    y: Tensor,
    *,
    c: float = 1.0,
    tolerance: float = 1e-4,
    max_iter: int = 1000,
    start: Logistic | None = None,
    shard: Shard = ONE_PROCESS,
) -> Logistic:
    """Fits the classifier that minimises

        |W|^2 / 2 + c sum_i -log softmax(W x_i + b)[y_i]

    with scipy's L-BFGS. This is scikit-learn's ``LogisticRegression(C=c)``; for two classes, scikit-learn's W is the
    difference of the two rows here. Products are in the precision and on the device of ``x``, sums in float64. Rows are
    processed in blocks, so that a memory-mapped ``x`` may be larger than memory. L-BFGS runs in coordinates in which
    the features are approximately white, which takes far fewer iterations. Of several ranks, each computes the terms of
    its rows; all run the same L-BFGS on the sums.

    Args:
        x: features (N, d); of several ranks, those of the rank's slice of the N rows.
        y: labels (N,), any integers.
        c: inverse regularisation strength, above 0.
        tolerance: the fit has converged when no element of the gradient of the mean objective, in the white
            coordinates, is larger.
        max_iter: maximum number of iterations.
        start: a solution for the same classes to start at.
        shard: the share of this rank, if several ranks call this function together.

    Raises:
        SSLToolError: if there is only one class, or ``x`` has values that are not finite.
    """
    classes, targets = y.unique(return_inverse=True)
    if len(classes) < 2:
        raise SSLToolError(f"all {len(y)} rows are of class {int(classes[0])}; a classifier needs two classes or more")
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    # With two classes, each row is half the difference: the penalty of the difference is twice that of the rows.
    problem = _Problem(x, targets.to(x.device), len(classes), c / 2 if len(classes) == 2 else c, shard)
    initial = torch.zeros(len(classes), x.shape[1] + 1, dtype=torch.float64)
    if start is not None:
        initial = torch.cat([start.weight, start.bias[:, None]], dim=1)
    options = {"maxiter": max_iter, "maxls": 50, "gtol": tolerance, "ftol": FTOL}
    white = (initial @ problem.root).numpy().ravel()
    result = scipy.optimize.minimize(problem, white, method="L-BFGS-B", jac=True, options=options)
    theta = problem.from_white(result.x)
    return Logistic(theta[:, :-1], theta[:, -1], classes.cpu(), bool(result.success), int(result.nit))


class _Problem:
    """The objective divided by ``c`` N, and its gradient, as functions of the flattened V = [W | b] R (C, d + 1).

    R R^T is the Hessian with respect to a row of [W | b] if all classes are equally likely, estimated from a sample of
    the rows. In V the curvature is about the same in all directions.
    """

    def __init__(self, x: Tensor, targets: Tensor, classes: int, c: float, shard: Shard) -> None:
        own, self.total = shard.slice(len(targets)), len(targets)
        self.x, self.targets, self.classes = x, targets[own], classes
        self.exchange = shard.world > 1
        self.penalty = 1.0 / (c * self.total)
        step = max(1, self.total // (WHITENING_ROWS * x.shape[1]))
        sample = x[-own.start % step :: step].cpu().double()
        sample = torch.cat([sample, torch.ones(len(sample), 1, dtype=torch.float64)], dim=1)
        products = self._over_ranks(sample.T @ sample)
        curvature = (1 - 1 / classes) / classes * products / len(range(0, self.total, step))
        curvature.diagonal()[:-1] += self.penalty
        curvature.diagonal().add_(RIDGE * float(curvature.trace()) / len(curvature))
        if not bool(curvature.isfinite().all()):
            raise SSLToolError(NOT_FINITE)
        self.root = torch.linalg.cholesky(curvature)

    def from_white(self, white: np.ndarray) -> Tensor:
        """[W | b] (C, d + 1) from the flattened V."""
        v = torch.from_numpy(np.array(white)).view(self.classes, -1)
        return torch.linalg.solve_triangular(self.root, v, upper=False, left=False)

    def __call__(self, white: np.ndarray) -> tuple[float, np.ndarray]:
        theta = self.from_white(white)
        cast = theta.to(self.x)
        weight, bias = cast[:, :-1].contiguous(), cast[:, -1].contiguous()
        loss, gradient = 0.0, torch.zeros_like(theta)
        for rows, targets in self._blocks():
            log_p = F.linear(rows, weight, bias).log_softmax(dim=1)
            target_log_p = log_p.gather(1, targets[:, None])
            loss -= float(target_log_p.sum(dtype=torch.float64))
            error = log_p.exp_().scatter_add_(1, targets[:, None], torch.full_like(target_log_p, -1.0))
            gradient[:, :-1] += (error.T @ rows).cpu()
            gradient[:, -1] += error.sum(dim=0).cpu()
        loss_and_gradient = self._over_ranks(torch.cat([gradient.new_tensor([loss]), gradient.flatten()]))
        loss, gradient = float(loss_and_gradient[0]), loss_and_gradient[1:].view_as(theta)
        gradient /= self.total
        gradient[:, :-1] += self.penalty * theta[:, :-1]
        value = loss / self.total + 0.5 * self.penalty * float(theta[:, :-1].square().sum())
        if not np.isfinite(value):
            raise SSLToolError(NOT_FINITE)
        gradient = torch.linalg.solve_triangular(self.root.T, gradient, upper=True, left=False)
        return value, gradient.numpy().ravel()

    def _over_ranks(self, sums: Tensor) -> Tensor:
        """The ``sums`` over the rows of all ranks, with the same bits on each, so that all take the same steps."""
        if self.exchange:
            distributed.all_reduce_sum(sums)
            distributed.broadcast(sums)
        return sums

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        size = max(1, BLOCK // (self.x.shape[1] * self.x.element_size()))
        for low in range(0, len(self.x), size):
            yield self.x[low : low + size], self.targets[low : low + size]
