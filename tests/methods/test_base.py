"""What all methods share: their options from text, and the layers that can be read out."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from ssltool.data.views import PAPER
from ssltool.errors import SSLToolError
from ssltool.methods import METHODS, method_class, method_options
from ssltool.methods.base import Method, gather_options, read_options, trainable
from ssltool.settings import Checked, setting


@dataclass(frozen=True)
class Options(Checked):
    width: int = setting(8, "a width", minimum=1)
    rate: float = setting(0.5, "a rate", above=0)
    stop_grad: bool = setting(True, "a switch")
    name: str = setting("a", "a name", choices=("a", "b"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("true", True), ("True", True), ("1", True), ("yes", True), ("FALSE", False), ("0", False), ("no", False)],
)
def test_switches_are_read_from_words(text, wanted):
    assert read_options("m", Options, {"stop_grad": text}).stop_grad is wanted


def test_numbers_and_names_are_read_from_text():
    options = read_options("m", Options, {"width": "12", "rate": "1e-3", "name": "b"})
    assert options == Options(width=12, rate=0.001, name="b")
    assert type(options.width) is int


def test_values_that_are_no_text_are_taken_as_they_are():
    assert read_options("m", Options, {"width": 3, "stop_grad": False}) == Options(width=3, stop_grad=False)


def test_nothing_given_is_the_defaults():
    assert read_options("m", Options, {}) == Options()


def test_names_may_be_spelt_with_hyphens():
    assert read_options("m", Options, {"stop-grad": "no"}).stop_grad is False


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": "wide"}, "--set width=wide: the value must be of type int"),
        ({"width": "1.5"}, "--set width=1.5: the value must be of type int"),
        ({"rate": "fast"}, "--set rate=fast: the value must be of type float"),
        ({"stop_grad": "maybe"}, "--set stop_grad=maybe: the value must be true or false"),
        ({"width": "0"}, "--width is 0; it must be at least 1"),
        ({"rate": "nan"}, "--rate is nan; it must be greater than 0"),
        ({"name": "c"}, "--name is 'c'; it must be one of a, b"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_right(given, message):
    with pytest.raises(SSLToolError) as caught:
        read_options("m", Options, given)
    assert str(caught.value).startswith(message)


def test_an_unknown_option_offers_the_nearest():
    with pytest.raises(SSLToolError, match=r"unknown option of m 'widht'; did you mean width\?"):
        read_options("m", Options, {"widht": "3"})


def test_an_unknown_option_that_is_near_nothing_lists_all():
    with pytest.raises(SSLToolError, match="unknown option of m 'qqq'; known: name, rate, stop_grad, width"):
        read_options("m", Options, {"qqq": "3"})


def test_assignments_and_flags_are_gathered_into_one_mapping():
    given = gather_options(("width=3", "stop-grad = no", "name=a=b", "empty="), {"rate": 0.1, "absent": None})
    assert given == {"rate": 0.1, "width": "3", "stop_grad": "no", "name": "a=b", "empty": ""}


@pytest.mark.parametrize(
    ("assignments", "flags"),
    [(("width=3", "width=4"), {}), (("stop-grad=1", "stop_grad=1"), {}), (("width=3",), {"width": 3})],
)
def test_an_option_given_twice_is_refused(assignments, flags):
    with pytest.raises(SSLToolError, match=r"the option .* is given twice"):
        gather_options(assignments, flags)


@pytest.mark.parametrize("assignment", ["width", "=3", "", " =3"])
def test_an_assignment_that_is_no_name_and_value_is_refused(assignment):
    with pytest.raises(SSLToolError, match=f"--set {assignment}: write it as NAME=VALUE"):
        gather_options((assignment,), {})


def test_every_registered_method_can_be_imported_and_has_options_with_defaults():
    for name in METHODS:
        cls = method_class(name)
        assert issubclass(cls, Method)
        assert method_options(name, {}) == cls.Options()


def test_an_unknown_method_offers_the_nearest():
    with pytest.raises(SSLToolError, match=r"unknown method 'simsam'; did you mean simsiam\?"):
        method_class("simsam")


class OnlyProjector(Method):
    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 4), 4, None)
        self.projector = nn.Linear(4, 5)


def test_a_layer_that_a_method_lacks_is_refused():
    method, images = OnlyProjector(), torch.ones(2, 3)
    assert method.embed(images, "backbone").shape == (2, 4)
    assert torch.equal(method.embed(images, "projector"), method.projector(method.backbone(images)))
    with pytest.raises(SSLToolError, match="--layer predictor: this model has no predictor"):
        method.embed(images, "predictor")


def test_a_method_makes_two_views_and_trains_all_its_parameters_unless_it_says_otherwise():
    method = OnlyProjector()
    assert method.recipes(PAPER) == [PAPER, PAPER]
    (group,) = method.param_groups()
    assert [id(p) for p in group["params"]] == [id(p) for p in method.parameters()]
    assert (group["fixed_lr"], group["is_encoder"]) == (False, True)
    with pytest.raises(NotImplementedError):
        method([torch.ones(2, 3)] * 2, torch.arange(2))


def test_frozen_parameters_are_not_trainable():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    assert [id(p) for p in trainable(a, b)] == [id(a.weight), id(a.bias)]
