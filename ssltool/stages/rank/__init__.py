"""Ordering runs and checkpoints without labels."""

from ssltool.stages.rank.rank import run

__all__ = ["run"]
