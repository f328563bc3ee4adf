"""Writes ``docs/cli.md`` from the commands' own ``--help``, and ``docs/options.md`` from ``ssltool methods NAME``.

``python docs/make_cli.py`` writes the pages, ``python docs/make_cli.py --check`` exits with 1 if one is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click

from ssltool.cli import COMMANDS, cli
from ssltool.cli.methods import page
from ssltool.methods import METHODS
from ssltool.stages.methods import describe

WIDTH = 100

INTRODUCTION = """\
<!-- Made by docs/make_cli.py from the commands' --help: change the help texts, not this page. -->

# Command line

This is what `ssltool COMMAND --help` prints. `python -m ssltool` is the same program, from a checkout too.

- Flags may be written with `-` or `_`: `--chunk-size` and `--chunk_size` are one flag.
- Results go to stdout, as a small table or with `--json` as one JSON document. Progress and messages go to stderr.
- Exit codes: 0 done; 1 an error that you can mend, in one line; 2 a mistake on the command line; 128 + N stopped by
  signal N after saving, see [](clusters.md).
"""


def help_text(command: click.Command, name: str) -> str:
    """The ``--help`` of ``command`` at a fixed width, whatever the terminal."""
    size = {"terminal_width": WIDTH, "max_content_width": WIDTH}
    context = command.make_context(name, [], resilient_parsing=True, **size)
    lines = [line.rstrip() for line in command.get_help(context).splitlines()]
    return "\n".join(lines)


OPTIONS = """\
<!-- Made by docs/make_cli.py from the methods' own declarations: change those, not this page. -->

# Options of the methods

This is what `ssltool methods NAME` prints. An option is set with `--set option=value`, repeatable. What the methods are
and how they differ is in [](methods.md).
"""


def options_page() -> str:
    """Every method's options and recipes."""
    sections = [f"## {name}\n\n```text\n{page(describe(name))}\n```\n" for name in METHODS]
    return "\n".join([OPTIONS, *sections])


def cli_page() -> str:
    """Every command's help."""
    sections = [INTRODUCTION, section(cli, "ssltool")]
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        if command is None:
            raise RuntimeError(f"there is no command {name}")
        sections.append(section(command, f"ssltool {name}"))
    return "\n".join(sections)


def section(command: click.Command, name: str) -> str:
    """One command as a heading and its help."""
    return f"## {name}\n\n```text\n{help_text(command, name)}\n```\n"


def main(arguments: list[str]) -> int:
    """Writes or checks the pages; returns the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: python docs/make_cli.py [--check]", file=sys.stderr)
        return 2
    stale = []
    for name, text in (("cli.md", cli_page()), ("options.md", options_page())):
        path = Path(__file__).with_name(name)
        if not arguments:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"docs: {' and '.join(stale)} stale; run: python docs/make_cli.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
