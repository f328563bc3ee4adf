"""Lists of numbers as settings, and how settings are checked together."""

from __future__ import annotations

import dataclasses
import math

import pytest

from ssltool import config
from ssltool.config import LinclsConfig, PretrainConfig
from ssltool.errors import SSLToolError, UsageError, found_in
from ssltool.methods import METHODS, method_class
from ssltool.settings import ineffective, numbers, reset_ineffective, value_type


def test_a_list_of_numbers_is_read_in_its_order():
    assert numbers("0.1,1e-3, 30", "lr_sweep") == (0.1, 0.001, 30.0)
    assert numbers("2", "c_grid") == (2.0,)


@pytest.mark.parametrize("text", ["", "a", "1,", "1,,2", "0,1", "-1", "nan", "inf,1", "1,1.0"])
def test_what_is_no_list_of_different_positive_numbers_is_refused_by_its_flag(text):
    with pytest.raises(SSLToolError, match=f"--lr-sweep is '{text}'; it must be different numbers above 0, as in"):
        numbers(text, "lr_sweep")


def test_only_settings_that_differ_from_their_defaults_are_ineffective_and_only_where_the_rule_holds():
    config = LinclsConfig(lr=0.5)
    rules = [(("epochs", "lr"), True, "here"), (("lr",), False, "there")]
    assert list(ineffective(config, rules)) == [("lr", "here")]


def test_check_names_a_setting_without_effect_and_the_constructor_accepts_it():
    config = LinclsConfig(lr=0.5, lr_sweep="0.1,1")
    with pytest.raises(UsageError, match=r"^--lr does nothing with --lr-sweep"):
        config.check()
    LinclsConfig(lr_sweep="0.1,1").check()


def test_check_refuses_settings_that_contradict_each_other():
    with pytest.raises(UsageError, match=r"--warmup-epochs 5 .*--epochs"):
        PretrainConfig(warmup_epochs=5, epochs=5).check()
    PretrainConfig(warmup_epochs=4, epochs=5).check()


def test_resetting_changes_only_the_named_settings_without_effect():
    config = PretrainConfig(chunk_size=2, n_rounds=3, lr=1.0)
    assert reset_ineffective(config, {"chunk_size", "lr"}) == PretrainConfig(n_rounds=3, lr=1.0)
    assert reset_ineffective(PretrainConfig(strategy="last", chunk_size=2), {"chunk_size"}).chunk_size == 2


def test_a_usage_error_in_a_file_names_the_file_and_is_none_of_usage():
    with pytest.raises(SSLToolError, match=r"run\.pt: wrong") as caught, found_in("run.pt"):
        raise UsageError("wrong")
    assert not isinstance(caught.value, UsageError)


def all_settings() -> list[tuple[type, str]]:
    """Each number among the settings of all commands, and the options of all methods."""
    commands = [getattr(config, name) for name in config.__all__ if name.endswith("Config")]
    classes = [*commands, *(method_class(name).Options for name in METHODS)]
    return [
        (cls, f.name) for cls in classes for f in dataclasses.fields(cls) if value_type(cls, f.name) in (int, float)
    ]


@pytest.mark.parametrize(("cls", "name"), all_settings())
def test_every_number_has_limits(cls, name):
    """No setting takes a number that float32 or a 64-bit integer cannot hold."""
    kind = value_type(cls, name)
    (field,) = (f for f in dataclasses.fields(cls) if f.name == name)
    large = [] if field.metadata["maximum"] is not None else [1e308]
    for value in (10**30, -(10**30)) if kind is int else (math.nan, math.inf, -math.inf, -1e308, *large):
        with pytest.raises(UsageError, match=name.replace("_", "[-_]")):
            cls(**{name: value})


@pytest.mark.parametrize("mean", [(0.5, 0.5), (0.5,) * 4, (0.5, 0.5, 1.5), (0.5, -0.1, 0.5), (0.5, 0.5, math.nan), ()])
def test_each_of_several_values_is_checked_and_so_is_their_number(mean):
    with pytest.raises(UsageError, match="--mean"):
        PretrainConfig(mean=mean)
    assert PretrainConfig(mean=(0.0, 0.5, 1.0)).mean == (0.0, 0.5, 1.0)


def test_a_bound_is_written_without_needless_digits():
    with pytest.raises(UsageError) as caught:
        PretrainConfig(minutes=0.0)
    assert "--minutes is 0; it must be greater than 0 and at most 1000000" in str(caught.value)
