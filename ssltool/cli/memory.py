"""A failed allocation as one line with the settings that may have asked for the memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ssltool.errors import SSLToolError

FAILED = (
    *("can't allocate memory", "out of memory", "Storage size calculation overflowed", "multiplication overflow"),
    "can't start new thread",  # its stack is memory, too
)
"""What the messages of torch's errors of allocation contain; they have no type of their own on the CPU."""

FAILED_IN_ONEDNN = ("could not create a primitive", "could not create a memory object", "could not execute a primitive")
"""oneDNN's messages without memory. Those for what it does not support go on."""

SMALLER = 100
"""How many times smaller than the largest integer others are that the message names too."""


@contextmanager
def told_as_settings(ctx: click.Context) -> Iterator[None]:
    """Turns a failed allocation in the ``with`` block into one line that names the largest integers among the options
    that are given.

    Raises:
        SSLToolError: instead of a ``MemoryError`` or torch's error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        raise SSLToolError(f"there is not enough memory{_amount(error)}; {_remedy(ctx)}") from error


def _is_of_memory(error: MemoryError | RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or any(words in text for words in FAILED) or text in FAILED_IN_ONEDNN


def _amount(error: BaseException) -> str:
    """How much memory was asked for, if the error says that."""
    found = re.search(r"allocate ([0-9.]+) (\w+)", str(error))
    if found is None:
        return ""
    return f" for {_size(int(found[1]))}" if found[2] == "bytes" else f" for {found[1]} {found[2]}"


def _size(count: int) -> str:
    """A number of bytes in MiB, or in GiB from one GiB on."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def _remedy(ctx: click.Context) -> str:
    given = sorted(_integers(ctx), key=lambda pair: -pair[1])
    if not given:
        return "use a machine with more memory, or smaller inputs"
    likely = [f"{name} ({value:,})" for name, value in given if value * SMALLER >= given[0][1]]
    return f"lower {' or '.join(likely)}"


def _integers(ctx: click.Context) -> Iterator[tuple[str, int]]:
    """The names and values of the options that are given and integers, also those of ``--set``."""
    for param in ctx.command.params:
        if ctx.get_parameter_source(str(param.name)) is not click.core.ParameterSource.COMMANDLINE:
            continue
        value: Any = ctx.params.get(str(param.name))
        if isinstance(value, int) and not isinstance(value, bool) and value > 1:
            yield max(param.opts, key=len), value
        elif param.name == "options":
            for name, _, text in (one.partition("=") for one in value):
                if text.isdecimal():
                    yield f"--set {name}", int(text[:30])
