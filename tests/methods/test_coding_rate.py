"""The coding rate: against singular values, closed forms, bounds and invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from methods_helpers import rows
from ssltool.errors import SSLToolError
from ssltool.methods.parts.coding_rate import coding_rate


def by_singular_values(z, eps: float) -> float:
    """1/2 sum log(1 + d s^2 / (n eps^2)) over the singular values s of Z."""
    n, d = z.shape
    s = np.linalg.svd(z.numpy(), compute_uv=False)
    return float(0.5 * np.log1p(d * s**2 / (n * eps**2)).sum())


@pytest.mark.parametrize("eps", [0.05, 0.5, 2.0])
@pytest.mark.parametrize(("n", "d"), [(8, 5), (5, 8), (6, 6), (1, 3), (3, 1)])
def test_the_coding_rate_is_half_the_log_determinant_by_singular_values(n, d, eps):
    (z,) = rows(1, n=n, d=d)
    assert coding_rate(z, eps).item() == pytest.approx(by_singular_values(z, eps), rel=1e-10)


def test_equal_unit_rows_have_the_least_and_orthonormal_rows_the_largest_rate_of_unit_rows():
    eps, d = 0.5, 6
    equal, spread = torch.ones(d, d).double() / math.sqrt(d), torch.eye(d).double()
    least, most = 0.5 * math.log(1 + d / eps**2), d / 2 * math.log(1 + 1 / eps**2)
    assert coding_rate(equal, eps).item() == pytest.approx(least, rel=1e-10)
    assert coding_rate(spread, eps).item() == pytest.approx(most, rel=1e-10)
    between = coding_rate(F.normalize(rows(1, n=d, d=d)[0], dim=1), eps).item()
    assert least < between < most


def test_zeros_have_the_rate_0():
    assert coding_rate(torch.zeros(4, 3), 0.5).item() == 0.0


def test_the_rate_is_invariant_to_rotations_to_the_order_of_rows_and_to_repeating_them():
    (z,) = rows(1)
    rotation = torch.linalg.qr(rows(1, n=5, d=5, seed=1)[0])[0]
    wanted = coding_rate(z, 0.3).item()
    for same in (z @ rotation, z.flip(0), -z, torch.cat([z, z])):
        assert coding_rate(same, 0.3).item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(4, 3), (3, 4)])
def test_the_gradient_is_the_numerical_one(n, d):
    (z,) = rows(1, n=n, d=d)
    assert torch.autograd.gradcheck(lambda z: coding_rate(z, 0.5), z.requires_grad_())


def test_autocast_does_not_lower_the_precision():
    (z,) = rows(1, n=40, d=10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = coding_rate(z.float(), 0.1)
    assert found.item() == pytest.approx(coding_rate(z, 0.1).item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 3, 4)])
def test_what_is_not_a_matrix_is_refused(shape):
    with pytest.raises(SSLToolError, match="coding_rate") as caught:
        coding_rate(torch.zeros(shape), 0.5)
    assert str(caught.value).endswith(str(shape))
