"""Lists of numbers as settings, and settings that do nothing."""

from __future__ import annotations

import pytest

from ssltool.config import LinclsConfig
from ssltool.errors import SSLToolError
from ssltool.settings import ineffective, numbers, refuse_ineffective


def test_a_list_of_numbers_is_read_in_its_order():
    assert numbers("0.1,1e-3, 30", "lr_sweep") == (0.1, 0.001, 30.0)
    assert numbers("2", "c_grid") == (2.0,)


@pytest.mark.parametrize("text", ["", "a", "1,", "1,,2", "0,1", "-1", "nan", "inf,1", "1,1.0"])
def test_what_is_no_list_of_different_positive_numbers_is_refused_by_its_flag(text):
    with pytest.raises(SSLToolError, match=f"--lr-sweep is '{text}'; it must be different numbers above 0, as in"):
        numbers(text, "lr_sweep")


def test_only_settings_away_from_their_defaults_are_idle_and_only_where_the_rule_holds():
    config = LinclsConfig(lr=0.5)
    rules = [(("epochs", "lr"), True, "here"), (("lr",), False, "there")]
    assert list(ineffective(config, rules)) == [("lr", "here")]
    with pytest.raises(SSLToolError, match=r"^--lr does nothing here; leave one of them out$"):
        refuse_ineffective(ineffective(config, rules))
    refuse_ineffective(ineffective(LinclsConfig(), rules))
