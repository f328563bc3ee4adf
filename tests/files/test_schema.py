"""Schemas: what fits comes back, and a misfit is one line with the file, the key, what was found and what to do."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssltool.errors import SSLToolError
from ssltool.files.misfit import describe, key_path
from ssltool.files.schema import (
    boolean,
    choice,
    conform,
    either,
    integer,
    listing,
    mapping,
    nested,
    optional,
    real,
    tensor,
    text,
)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def refusal(value: Any, check: Any) -> str:
    with pytest.raises(SSLToolError) as caught:
        conform(value, check, "a.pt")
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith("a.pt")
    return message


@pytest.mark.parametrize(
    ("check", "fits", "misfits"),
    [
        (integer(0, 9), [0, 9], [-1, 10, True, 1.0, "1", None, [1], 10**400]),
        (integer(), [-(2**63)], [2**63]),
        (real(0, 1), [0, 0.5, 1], [-0.1, 2, float("nan"), True, "x", 10**400]),
        (real(), [-1e300, 3], [float("inf"), float("nan"), 10**30]),
        (real(finite=False), [float("inf"), float("nan")], ["nan", 1j]),
        (text(3), ["", "abc"], ["abcd", b"abc", None, 3]),
        (boolean(), [True, False], [1, 0, None, "true"]),
        (choice("a", 1, None), ["a", 1, None], ["b", True, 1.0, [1]]),
        (optional(integer(0)), [None, 3], [-1, "x"]),
        (either(integer(), listing(text())), [3, ["a"]], [3.5, [3], None]),
        (listing(integer(), 2), [[1, 2], (1, 2)], [[1], [1, 2, 3], "ab", {1: 2}, torch.ones(2)]),
        (listing(integer(), minimum=1), [[1]], [[]]),
        (mapping({"a": integer()}), [{"a": 1}], [{}, {"a": 1, "b": 2}, [("a", 1)], {"a": None}]),
        (mapping(optional={"a": integer()}, other=text()), [{}, {"b": "x"}], [{"b": 2}, {2: "x"}]),
        (mapping(other=integer(), minimum=1), [{"a": 1}], [{}]),
    ],
)
def test_what_fits_comes_back_and_the_rest_is_refused(check, fits, misfits):
    for value in fits:
        found = conform(value, check, "a.pt")
        assert found == (list(value) if isinstance(value, tuple) else value) or value != value
    for value in misfits:
        refusal(value, check)


def test_a_misfit_is_named_by_its_path():
    schema = mapping({"metrics": mapping({"epochs": listing(mapping({"loss": real()}))})})
    records = {"metrics": {"epochs": [{"loss": 1.0}, {"loss": "low"}]}}
    assert "metrics.epochs[1].loss is 'low'; expected a finite number" in refusal(records, schema)
    assert "lacks loss in metrics.epochs[0]" in refusal({"metrics": {"epochs": [{}]}}, schema)


def test_paths_and_values_from_files_stay_on_one_printable_line():
    key = "a\n\x1b[31m\u202e" + "b" * 500
    assert key_path([key]).isprintable()
    assert len(key_path([key])) < 200
    assert key_path(["optimizer", "state", 0, "layer1.0.weight"]) == "optimizer.state[0].layer1.0.weight"
    for value in (key, 10**5000, [key] * 9, {key: key}, b"\n", torch.ones(2, 3), float("nan"), {1, 2}):
        assert describe(value).isprintable()
        assert len(describe(value)) < 120


def test_sizes_of_one_name_agree_within_a_file():
    schema = mapping({"weight": tensor("C", "D"), "bias": tensor("C"), "classes": listing(text(), "C")})
    good = {"weight": torch.ones(2, 3), "bias": torch.ones(2), "classes": ["a", "b"]}
    assert conform(good, schema, "a.pt").keys() == good.keys()
    assert "bias" in refusal(good | {"bias": torch.ones(3)}, schema)
    assert "classes" in refusal(good | {"classes": ["a"]}, schema)


@pytest.mark.parametrize("shape", [(2,), (2, 3, 4, 5), ()])
def test_an_ellipsis_stands_for_any_number_of_sizes(shape):
    assert conform(torch.ones(7, *shape, 3), tensor("N", ..., 3), "a.pt").shape == (7, *shape, 3)
    assert conform(torch.ones(shape), tensor(...), "a.pt").shape == shape
    refusal(torch.ones(7, *shape, 4), tensor("N", ..., 3))
    refusal(torch.ones(7), tensor("N", ..., 3))


@pytest.mark.parametrize(
    "odd",
    [
        torch.ones(2, 3).to_sparse(),
        torch.ones(2, 3, dtype=torch.complex64),
        torch.ones(2, 3).to(torch.float8_e4m3fn),
        torch.ones(2, 3, device="meta"),
        torch.ones(()).expand(10**6, 10**6),
        torch.ones(2, 3, dtype=torch.int64),
        torch.ones(3),
        torch.tensor(1.0),
        torch.full((2, 3), float("nan")),
        [[1.0]],
        None,
    ],
    ids=str,
)
def test_tensors_of_odd_kinds_are_refused(odd):
    assert "rows" in refusal({"rows": odd}, mapping({"rows": tensor("N", 3, kinds="floating", finite=True)}))


def test_tensors_lose_their_gradient_and_keep_their_memory():
    leaf = torch.nn.Parameter(torch.ones(2, 3))
    found = conform(leaf, tensor("N", "d"), "a.pt")
    assert type(found) is torch.Tensor and not found.requires_grad
    assert found.data_ptr() == leaf.data_ptr()


@given(PLAIN)
def test_nested_values_come_back_as_they_are(value):
    assert repr(conform(value, nested(), "a.pt")) == repr(value)


def test_recursion_depth_and_number_of_nested_values_are_limited():
    cyclic: dict[str, Any] = {}
    cyclic["again"] = cyclic
    refusal(cyclic, nested())
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    refusal(deep, nested())
    shared: Any = 0
    for _ in range(30):
        shared = [shared] * 10  # stands for 10^30 values
    start = time.perf_counter()
    refusal(shared, nested())
    assert time.perf_counter() - start < 20


def test_nested_values_hold_tensors_only_where_these_are_allowed():
    assert conform({0: {"m": torch.ones(2)}}, nested(tensors=True), "a.pt")[0]["m"].tolist() == [1, 1]
    refusal({"m": torch.ones(2)}, nested())
    refusal({"m": torch.ones(2, device="meta")}, nested(tensors=True))
    refusal({"m": torch.float32}, nested(tensors=True))


def test_checking_a_checkpoint_costs_less_than_a_millisecond_for_each_tensor():
    weights = {f"layer{i}.weight": torch.ones(8, 8) for i in range(500)}
    start = time.perf_counter()
    conform(weights, mapping(other=tensor(...)), "a.pt")
    assert time.perf_counter() - start < 0.5
