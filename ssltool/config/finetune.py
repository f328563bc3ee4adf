"""The settings of ``ssltool finetune``."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.evaluate import LabelledSettings
from ssltool.config.shared import RunSettings


@dataclass(frozen=True)
class FinetuneConfig(RunSettings, LabelledSettings):
    """Settings of ``ssltool finetune``."""
