"""Names of architectures with a library and settings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssltool.errors import SSLToolError, UsageError
from ssltool.models.arch_name import ArchName, check_values, compose, file_name, parse

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


def test_a_name_in_a_path_is_short_and_differs_where_settings_do():
    assert file_name("resnet18_w16") == "resnet18_w16" and file_name("timm:resnet50") == "timm-resnet50"
    long = [f'transformers:vit,a="{"/" * 300}{end}"' for end in "xy"]
    assert len({file_name(name) for name in long}) == 2
    assert all(len(file_name(name)) < 60 and "/" not in file_name(name) for name in long)


@pytest.mark.parametrize(
    "settings",
    [{"depth": 1001}, {"num_hidden_layers": 10**9}, {"depths": [2, 5000]}, {"dim": 2**21}, {"x": {"y": float("nan")}}],
)
def test_numbers_that_no_network_has_are_refused_before_it_is_built(settings):
    with pytest.raises(SSLToolError, match=next(iter(settings))):
        check_values(settings)
    check_values({"depth": 1000, "dims": [2**20, -1.5], "act_layer": "silu", "bias": None})
