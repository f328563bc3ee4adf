"""The settings of ``ssltool watch``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.settings import Checked, Rule, setting

TOKEN_LENGTH = 16
"""The fewest characters of a token."""


@dataclass(frozen=True)
class WatchConfig(Checked):
    """Settings of ``ssltool watch``."""

    runs: tuple[str, ...] = setting((), "run folders, folders that hold some, or logs of other programs")
    port: int = setting(8765, "port of the page; 0 takes a free one", section="Output", minimum=0, maximum=65535)
    open: bool = setting(True, "open the page in a browser", section="Output")
    host: str | None = setting(
        None, "address to listen on, for other machines; needs --token [default: this machine only]", section="Output"
    )
    token: str | None = setting(
        None, f"secret that the address of the page must have, {TOKEN_LENGTH} characters or more", section="Output"
    )
    every: float = setting(2.0, "seconds between two looks at the files", minimum=0.2, maximum=3600)
    terminal: bool = setting(False, "show a table in the terminal, without a page", section="Output")

    def conflicts(self) -> list[Rule]:
        """What only a page has."""
        return [(("port", "open", "host", "token"), self.terminal, "with --terminal")]

    def mistakes(self) -> Iterator[str]:
        if not self.runs:
            yield "name at least one run folder, or a folder of run folders"
        if self.host is not None and self.token is None:
            yield "--host needs --token TEXT, so that not everyone who reaches this machine sees the runs"
        if self.token is not None and not re.fullmatch(f"[A-Za-z0-9_-]{{{TOKEN_LENGTH},}}", self.token):
            yield f"--token must be {TOKEN_LENGTH} or more letters, digits, - and _"
