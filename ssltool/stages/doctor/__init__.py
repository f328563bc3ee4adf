"""The doctor stage: whether this installation works, and how fast this machine is."""

from ssltool.stages.doctor.doctor import run

__all__ = ["run"]
