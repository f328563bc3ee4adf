"""Method options: parsing of strings and flags, and validation."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ssltool.errors import SSLToolError
from ssltool.methods import METHODS, method_class, method_options
from ssltool.methods.base import Method
from ssltool.methods.options import (
    AsymmetricViews,
    LabelledSupport,
    MethodOptions,
    TrainedTeacher,
    gather_options,
    momentum,
    momentum_final,
    queue_size,
    read_options,
    temperature,
    width,
)
from ssltool.settings import setting


@dataclass(frozen=True)
class Options(MethodOptions):
    width: int = setting(8, "a width", minimum=1)
    rate: float = setting(0.5, "a rate", above=0)
    stop_grad: bool = setting(True, "a switch")
    name: str = setting("a", "a name", choices=("a", "b"))
    end: float | None = setting(1.0, "a number or none")
    path: str | None = setting(None, "a file or none")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("true", True), ("True", True), ("1", True), ("yes", True), ("FALSE", False), ("0", False), ("no", False)],
)
def test_switches_are_read_from_words(text, wanted):
    assert read_options("m", Options, {"stop_grad": text}).stop_grad is wanted


def test_numbers_and_names_are_read_from_text():
    options = read_options("m", Options, {"width": "12", "rate": "1e-3", "name": "b", "path": "x.npy"})
    assert options == Options(width=12, rate=0.001, name="b", path="x.npy")
    assert type(options.width) is int


@pytest.mark.parametrize("text", ["none", "None", "NONE"])
def test_none_is_parsed_for_optional_settings(text):
    options = read_options("m", Options, {"end": text, "path": text})
    assert (options.end, options.path) == (None, None)


def test_other_values_of_optional_settings_are_parsed_as_their_type():
    assert read_options("m", Options, {"end": "0.25"}).end == 0.25
    with pytest.raises(SSLToolError, match=r"--set end=last: .* float"):
        read_options("m", Options, {"end": "last"})


def test_values_that_are_not_strings_are_not_parsed():
    assert read_options("m", Options, {"width": 3, "stop_grad": False, "end": None}) == Options(
        width=3, stop_grad=False, end=None
    )


def test_omitted_options_have_their_defaults():
    assert read_options("m", Options, {}) == Options()


def test_names_may_contain_hyphens():
    assert read_options("m", Options, {"stop-grad": "no"}).stop_grad is False


@pytest.mark.parametrize(
    ("given", "terms"),
    [
        ({"width": "wide"}, ("--set width=wide", "int")),
        ({"width": "1.5"}, ("--set width=1.5", "int")),
        ({"width": "none"}, ("--set width=none", "int")),
        ({"rate": "fast"}, ("--set rate=fast", "float")),
        ({"stop_grad": "maybe"}, ("--set stop_grad=maybe", "true or false")),
        ({"width": "0"}, ("--set width", "at least 1")),
        ({"rate": "nan"}, ("--set rate", "greater than 0")),
        ({"name": "c"}, ("--set name", "a, b")),
    ],
)
def test_an_invalid_value_is_refused(given, terms):
    with pytest.raises(SSLToolError) as caught:
        read_options("m", Options, given)
    assert all(term in str(caught.value) for term in terms)


def test_an_unknown_option_suggests_similar_names():
    with pytest.raises(SSLToolError, match=r"widht.* width"):
        read_options("m", Options, {"widht": "3"})


def test_an_unknown_option_without_similar_names_lists_all_names():
    with pytest.raises(SSLToolError, match=r"qqq.* end, name, path, rate, stop_grad, width"):
        read_options("m", Options, {"qqq": "3"})


def test_assignments_and_flags_are_gathered_into_one_mapping():
    given = gather_options(("width=3", "stop-grad = no", "name=a=b", "empty="), {"rate": 0.1, "absent": None})
    assert given == {"rate": 0.1, "width": "3", "stop_grad": "no", "name": "a=b", "empty": ""}


@pytest.mark.parametrize(
    ("assignments", "flags"),
    [(("width=3", "width=4"), {}), (("stop-grad=1", "stop_grad=1"), {}), (("width=3",), {"width": 3})],
)
def test_a_repeated_option_is_refused(assignments, flags):
    with pytest.raises(SSLToolError, match=r"the option (width|stop_grad) "):
        gather_options(assignments, flags)


@pytest.mark.parametrize("assignment", ["width", "=3", "", " =3"])
def test_an_assignment_without_name_or_equals_sign_is_refused(assignment):
    with pytest.raises(SSLToolError, match=f"--set {assignment}: .*NAME=VALUE"):
        gather_options((assignment,), {})


@dataclass(frozen=True)
class Shared(AsymmetricViews, LabelledSupport, TrainedTeacher):
    dim: int = width(16)
    temperature: float = temperature(0.1)
    queue: int = queue_size(32)
    momentum: float = momentum(0.9)
    momentum_final: float | None = momentum_final(None)


@pytest.mark.parametrize(
    ("name", "lowest", "beyond"),
    [
        ("dim", "1", "0"),
        ("temperature", "1e-9", "0"),
        ("queue", "1", "0"),
        ("momentum", "0", "-0.1"),
        ("momentum", "1", "1.1"),
        ("momentum_final", "1", "1.1"),
        ("labels_fraction", "1", "0"),
        ("support_classes", "2", "1"),
        ("support_per_class", "1", "0"),
    ],
)
def test_shared_options_are_range_checked(name, lowest, beyond):
    assert getattr(read_options("m", Shared, {name: lowest}), name) == float(lowest)
    with pytest.raises(SSLToolError, match=f"--set {name} is "):
        read_options("m", Shared, {name: beyond})


@pytest.mark.parametrize("name", METHODS)
def test_every_registered_method_can_be_imported_and_has_options_with_defaults(name):
    cls = method_class(name)
    assert issubclass(cls, Method)
    assert method_options(name, {}) == cls.Options()


@pytest.mark.parametrize("lookup", [method_class, METHODS.__getitem__, lambda name: method_options(name, {})])
def test_an_unknown_method_suggests_similar_names(lookup):
    with pytest.raises(SSLToolError, match=r"simsam.* simsiam"):
        lookup("simsam")
