"""Writes ``docs/cli.md`` from the commands' own ``--help``.

``python docs/make_cli.py`` writes the page, ``python docs/make_cli.py --check`` exits with 1 if it is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click

from ssltool.cli import COMMANDS, cli

PAGE = Path(__file__).with_name("cli.md")
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


def page() -> str:
    """The whole page."""
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
    """Writes or checks the page; returns the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: python docs/make_cli.py [--check]", file=sys.stderr)
        return 2
    wanted = page()
    if not arguments:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted:
        return 0
    print(f"{PAGE} is stale; run: python docs/make_cli.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
