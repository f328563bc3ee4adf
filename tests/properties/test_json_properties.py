"""Documents as JSON, against Python's own reading of what it writes."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ssltool.files.writing import finite, to_json

texts = st.text('aé\\"\n\x00\u2028☃', max_size=6)
not_finite = st.sampled_from([math.nan, math.inf, -math.inf])  # often, since most documents of any floats have none
leaves = st.none() | st.booleans() | st.integers() | st.floats() | not_finite | texts
documents = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(texts, inner, max_size=4)
    ),
    max_leaves=20,
)


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def leaves_of(document: Any) -> list[Any]:
    if isinstance(document, dict):
        document = list(document.values())
    return [leaf for one in document for leaf in leaves_of(one)] if isinstance(document, (list, tuple)) else [document]


@given(documents, st.sampled_from([None, 0, 2]))
def test_a_document_comes_back_with_none_for_what_is_not_finite(document, indent):
    """Python writes NaN and Infinity, and tells its reader's ``parse_constant`` of them and of nothing else."""
    wanted = json.loads(json.dumps(document), parse_constant=lambda constant: None)
    found = json.loads(to_json(document, indent=indent), parse_constant=refuse)
    assert found == wanted
    assert list(map(type, leaves_of(found))) == list(map(type, leaves_of(wanted)))  # neither 1 for True nor 1.0 for 1


@given(documents)
def test_leaves_keep_their_order_and_only_numbers_that_are_not_finite_change(document):
    before, after = leaves_of(document), leaves_of(finite(document))
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        changed = isinstance(old, float) and not math.isfinite(old)
        assert new is None if changed else (type(new), new) == (type(old), old)


@given(documents)
def test_what_is_finite_stays_as_it_is(document):
    once = finite(document)
    assert finite(once) == once
