"""The settings: each says what it is, and refuses what it cannot be."""

from __future__ import annotations

import dataclasses
import math

import pytest

from ssltool.config import (
    STEMS,
    CollapseConfig,
    CollapseLayersConfig,
    KnnConfig,
    LinclsConfig,
    PlotConfig,
    PretrainConfig,
    RankConfig,
    ReportConfig,
    SaveReprsConfig,
    as_dict,
    fixed_settings,
)
from ssltool.errors import SSLToolError
from ssltool.methods import METHODS, method_class
from ssltool.settings import flag, may_be_none, value_type

CLASSES = [
    PretrainConfig,
    SaveReprsConfig,
    KnnConfig,
    LinclsConfig,
    CollapseConfig,
    CollapseLayersConfig,
    RankConfig,
    PlotConfig,
    ReportConfig,
]
SETTINGS = [pytest.param(c, f, id=f"{c.__name__}.{f.name}") for c in CLASSES for f in dataclasses.fields(c)]
BOUNDS = [
    pytest.param(c, f.name, bound, f.metadata[bound], id=f"{c.__name__}.{f.name}-{bound}")
    for c in CLASSES
    for f in dataclasses.fields(c)
    for bound in ("minimum", "maximum", "above")
    if f.metadata[bound] is not None
]


@pytest.mark.parametrize(("cls", "field"), SETTINGS)
def test_every_setting_has_a_help_text_of_one_line(cls, field):
    help = field.metadata["help"]
    assert len(help) > 5
    assert "\n" not in help
    assert help == help.strip()
    assert not help.endswith(".") or help.endswith("...")
    assert value_type(cls, field.name) in (bool, int, float, str, tuple[str, ...], tuple[float, ...])


@pytest.mark.parametrize("cls", CLASSES)
def test_the_defaults_are_within_their_own_ranges(cls):
    assert dataclasses.is_dataclass(cls())


@pytest.mark.parametrize("cls", CLASSES)
def test_settings_are_frozen(cls):
    config = cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(cls)[0].name, None)


@pytest.mark.parametrize(("cls", "name", "bound", "value"), BOUNDS)
def test_a_value_out_of_range_is_refused_with_the_name_of_its_flag(cls, name, bound, value):
    wrong = {"minimum": value - 1, "maximum": max(value + 1, 2 * value), "above": value}[bound]
    with pytest.raises(SSLToolError) as caught:
        cls(**{name: wrong})
    words = {"minimum": "at least", "maximum": "at most", "above": "greater than"}[bound]
    given, limit = (str(number).removesuffix(".0") for number in (wrong, value))
    assert str(caught.value).startswith(f"--{name.replace('_', '-')} is {given}; it must be ")
    assert ("finite" if wrong == math.inf else f"{words} {limit}") in str(caught.value)


@pytest.mark.parametrize(("cls", "name", "bound", "value"), BOUNDS)
def test_a_value_on_an_inclusive_bound_is_accepted(cls, name, bound, value):
    right = value + 1e-9 if bound == "above" else value
    assert getattr(cls(**{name: right}), name) == right


@pytest.mark.parametrize("name", ["lr", "momentum", "crop_min", "blur_p"])
def test_nan_is_refused(name):
    with pytest.raises(SSLToolError, match=f"{flag(name)} is nan"):
        PretrainConfig(**{name: float("nan")})


def test_an_error_of_a_range_names_both_bounds():
    with pytest.raises(SSLToolError, match=r"--flip-p is 1\.5; .*0 .*1"):
        PretrainConfig(flip_p=1.5)


@pytest.mark.parametrize(
    ("cls", "name", "flag"),
    [
        (PretrainConfig, "strategy", "--strategy"),
        (PretrainConfig, "optimizer", "--optimizer"),
        (PretrainConfig, "device", "--device"),
        (SaveReprsConfig, "tokens", "--tokens"),
        (SaveReprsConfig, "split", "--split"),
        (KnnConfig, "metric", "--metric"),
        (CollapseConfig, "type", "--type"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_choices(cls, name, flag):
    choices = next(f.metadata["choices"] for f in dataclasses.fields(cls) if f.name == name)
    for choice in choices:
        assert getattr(cls(**{name: choice}), name) == choice
    with pytest.raises(SSLToolError) as caught:
        cls(**{name: "nonsense"})
    assert str(caught.value).startswith(f"{flag} is 'nonsense'")
    assert str(caught.value).endswith(", ".join(choices))


def test_none_is_not_checked():
    config = SaveReprsConfig(stem=None, image_size=None)
    assert config.stem is None
    assert "small" in STEMS
    with pytest.raises(SSLToolError, match="--stem"):
        SaveReprsConfig(stem="smal")


def test_the_defaults_are_those_of_the_paper():
    pretrain, probe = PretrainConfig(), LinclsConfig()
    assert (pretrain.lr, pretrain.momentum, pretrain.weight_decay, pretrain.seed) == (0.05, 0.9, 1e-4, 10)
    assert (pretrain.crop_min, pretrain.jitter_p, pretrain.gray_p, pretrain.flip_p) == (0.2, 0.8, 0.2, 0.5)
    assert (probe.lr, probe.epochs, probe.weight_decay, probe.momentum) == (0.1, 90, 0.0, 0.9)


def test_as_dict_turns_tuples_into_lists():
    document = as_dict(CollapseConfig(files=("a.pt", "b.pt"), normalize=True))
    assert document["files"] == ["a.pt", "b.pt"] and document["threshold"] == []
    assert (document["type"], document["normalize"], document["plot"]) == ("svd", True, None)


def test_the_value_type_of_an_optional_setting_excludes_none():
    assert value_type(PretrainConfig, "epochs") is int
    assert value_type(PretrainConfig, "blur_p") is float
    assert value_type(PretrainConfig, "fix_pred_lr") is bool
    assert value_type(PretrainConfig, "out") is str


def test_the_fixed_settings_are_the_schedule_and_not_the_strategy():
    fixed = fixed_settings(PretrainConfig)
    assert {"arch", "batch_size", "epochs", "seed", "lr", "optimizer"} <= set(fixed)
    assert not {"strategy", "chunk_size", "out", "resume", "workers"} & set(fixed)


def test_none_is_accepted_for_optional_settings_only():
    assert may_be_none(PretrainConfig, "epochs") and may_be_none(PretrainConfig, "moco_m")
    assert not may_be_none(PretrainConfig, "lr") and not may_be_none(PretrainConfig, "options")


FOR_OPTIONS = [f for f in dataclasses.fields(PretrainConfig) if f.metadata["method_option"]]


@pytest.mark.parametrize("field", FOR_OPTIONS, ids=lambda field: field.name)
def test_a_flag_of_a_method_option_names_an_existing_option(field):
    option = field.metadata["method_option"]
    owners = [f for name in METHODS for f in dataclasses.fields(method_class(name).Options) if f.name == option]
    assert owners
    assert field.metadata["help"].endswith(f"[--set {option}=]")
    assert field.default in (None, False)
