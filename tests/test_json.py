"""Documents as JSON: everything comes back as it was, but what JSON does not know."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ssltool.diagnosis.metrics.of_spectrum import PowerLaw
from ssltool.files.writing import finite, to_json

DOCUMENT = {"a": 1, "b": [0.1 + 0.2, -0.0, 1e-300, 1e300], "c": {"d": None, "e": [True, False, "NaN", ""]}, "é": []}


def strict(text: str) -> object:
    """JSON as RFC 8259 has it: without NaN and infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_values_that_json_supports_survive_a_round_trip():
    assert finite(DOCUMENT) == DOCUMENT
    assert strict(to_json(DOCUMENT)) == DOCUMENT
    assert list(strict(to_json(DOCUMENT))) == list(DOCUMENT)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan"), np.float64("-inf")])
def test_nonfinite_numbers_become_null_at_any_depth(value):
    document = {"x": value, "y": [1.0, value, {"z": (value,)}], "n": 3}
    assert strict(to_json(document)) == {"x": None, "y": [1.0, None, {"z": [None]}], "n": 3}
    assert to_json(value) == "null"


def test_subclasses_of_float_become_plain_floats():
    assert type(finite(np.float64(0.1))) is float
    exponent = finite({"alpha": PowerLaw(1.25, 11, 100, math.nan)})["alpha"]
    assert (type(exponent), exponent) == (float, 1.25)
    assert finite(PowerLaw(math.nan, 11, 12, math.nan)) is None


@pytest.mark.parametrize("value", [0, 2**70, True, False, None, "inf", ""])
def test_values_that_are_not_floats_are_unchanged(value):
    assert finite(value) is value


def test_tuples_become_lists_as_in_json():
    assert finite({"interval": (1.0, (2, 3))}) == {"interval": [1.0, [2, 3]]}


def test_the_document_is_not_modified():
    inner = [math.nan, 1.0]
    document = {"x": inner}
    to_json(document)
    assert document["x"] is inner
    assert math.isnan(inner[0])


def test_json_is_one_line_unless_it_is_indented():
    assert "\n" not in to_json(DOCUMENT)
    assert to_json({"a": [1]}, indent=2).splitlines() == ["{", '  "a": [', "    1", "  ]", "}"]
    assert strict(to_json(DOCUMENT, indent=2)) == DOCUMENT


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes"])
def test_values_that_json_does_not_support_are_an_error(value):
    with pytest.raises(TypeError):
        to_json({"a": value})
