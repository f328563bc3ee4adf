"""The settings of ``ssltool methods``."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.fields import METHODS
from ssltool.settings import Checked, setting


@dataclass(frozen=True)
class MethodsConfig(Checked):
    """Settings of ``ssltool methods``."""

    name: str | None = setting(None, "method to describe [default: list all]", names=METHODS)
