"""Errors of parts that several commands use name only remedies that the command has.

A message ends with what to do, after the last semicolon: "replace it, or skip it with --skip-corrupt". What reads an
image does not know which command it works for, so the command leaves out the alternatives whose options it lacks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import click

from ssltool.errors import SSLToolError

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")

ELSEWHERE = "ssltool "
"""What an alternative contains that names another command."""


@contextmanager
def with_own_remedies(ctx: click.Context) -> Iterator[None]:
    """Raises the errors of the ``with`` block without the alternatives that the command of ``ctx`` lacks."""
    try:
        yield
    except SSLToolError as error:
        options = {name for param in ctx.command.get_params(ctx) for name in (*param.opts, *param.secondary_opts)}
        text = own_remedies(str(error), options)
        if text == str(error):
            raise
        raise type(error)(text) from error


def own_remedies(text: str, options: Collection[str]) -> str:
    """A message without those alternatives, ", or ...", after its last semicolon that name an option which is not among
    ``options``. What is left if it is the only remedy stays."""
    head, semicolon, tail = text.rpartition("; ")
    first, *others = tail.split(", or ")
    kept = [one for one in others if ELSEWHERE in one or {*OPTION.findall(one)} <= {*options}]
    return head + semicolon + ", or ".join([first, *kept]) if semicolon else text
