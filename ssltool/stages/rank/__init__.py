"""The rank stage: orders runs and checkpoints by metrics that need no labels."""

from ssltool.stages.rank.rank import run

__all__ = ["run"]
