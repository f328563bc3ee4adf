"""Names of architectures with a library and settings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssltool.errors import UsageError
from ssltool.models.arch_name import ArchName, compose, parse

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_the_settings_of_a_name_are_read_as_they_were_written(settings):
    assert parse(compose("timm", "resnet50", settings)) == ArchName("timm", "resnet50", settings)


def test_plain_words_and_numbers_need_no_quotes():
    name = "timm:resnet50,act_layer=silu,output_stride=8,features_only=false"
    assert parse(name) == ("timm", "resnet50", {"act_layer": "silu", "output_stride": 8, "features_only": False})
    assert str(parse(name)) == name


def test_a_name_without_a_library_has_no_parts():
    assert parse("resnet18_w16") is None


@pytest.mark.parametrize("rest", ["x", "=1", "a=1,b", 'a="x"b', "a=[1", "a=1,,b=2"])
def test_settings_of_another_form_are_refused(rest):
    with pytest.raises(UsageError, match="timm:resnet50"):
        parse(f"timm:resnet50,{rest}")
