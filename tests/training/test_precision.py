"""Floating-point precision, with and without autocast."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssltool.training.precision import BF16_FLAGS, _has_flag, widest_float, without_autocast

CPU = torch.device("cpu")


def product(a: Tensor, b: Tensor) -> Tensor:
    """The product of two matrices."""
    return a @ b.mT


def matrices(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 7, generator=generator).to(dtype), torch.randn(4, 7, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_function_without_autocast_computes_in_the_precision_of_its_arguments(dtype):
    a, b = matrices(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product(*matrices()).dtype == torch.bfloat16  # with autocast
        found = without_autocast(product)(a, b)
    assert found.dtype == dtype
    assert torch.equal(found, a @ b.mT)


def test_gradients_pass_through_in_that_precision():
    a, b = matrices()
    a.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = without_autocast(product)(a, b).sum()
    loss.backward()
    torch.testing.assert_close(a.grad, b.sum(dim=0).expand(5, 7))


def test_autocast_is_restored_after_the_function_even_if_it_raises():
    def fail(a: Tensor) -> Tensor:
        raise ZeroDivisionError

    a, b = matrices()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        without_autocast(product)(a, b)
        with pytest.raises(ZeroDivisionError):
            without_autocast(fail)(a)
        assert product(a, b).dtype == torch.bfloat16


def test_the_first_argument_may_be_a_list_of_tensors_or_of_lists_of_them():
    def of_lists(rows: list, other: Tensor) -> Tensor:
        first = rows[0] if isinstance(rows[0], Tensor) else rows[0][0]
        return product(first, other)

    a, b = matrices()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for rows in ([a], [[a, b], [a]], (a,)):
            assert without_autocast(of_lists)(rows, b).dtype == torch.float32


@pytest.mark.parametrize("first", [3, [], "rows", [[]]], ids=repr)
def test_a_function_without_a_tensor_argument_raises_its_own_error(first):
    def particular(a: object) -> None:
        raise ValueError(f"I take no {a}")

    with pytest.raises(ValueError, match="I take no "):
        without_autocast(particular)(first)


def test_the_function_keeps_its_name_and_its_documentation():
    wrapped = without_autocast(product)
    assert (wrapped.__name__, wrapped.__doc__) == ("product", "The product of two matrices.")


def test_the_widest_float_is_float64_except_on_mps():
    assert (widest_float(CPU), widest_float(torch.device("cuda")), widest_float(torch.device("mps"))) == (
        torch.float64,
        torch.float64,
        torch.float32,
    )


@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ("fpu avx512f avx512_bf16 amx_tile", True),
        ("fpu amx_bf16 amx_tile", True),
        ("fpu avx2 avx512f avx512_vnni", False),  # it would convert every number
        ("", False),
    ],
)
def test_a_processor_multiplies_bf16_if_its_features_say_so(tmp_path, flags, native):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: avx512_bf16 model\nflags\t\t: {flags}\nbugs\t\t: none\n")
    assert _has_flag(BF16_FLAGS, cpuinfo) is native


def test_a_system_that_does_not_list_features_computes_in_float32(tmp_path):
    assert not _has_flag(BF16_FLAGS, tmp_path / "missing")
