"""One HTML page about one or several runs."""

from ssltool.stages.report.report import run

__all__ = ["run"]
