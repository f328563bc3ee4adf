"""Text from files, escaped for where it is shown: a terminal, HTML and SVG, or a cell of a .csv table.

Class names, file names, keys and settings come from anywhere. Characters without a visible form would move the cursor,
change colours, break lines or reverse the reading order, so they are shown by their number: ``\\x1b``, ``\\u202e``.
Documents of ``--json`` keep the exact text, which JSON escapes itself.
"""

from __future__ import annotations

import contextlib
import html
import re
import unicodedata
from typing import Any

LONGEST = 1000
"""Maximum number of characters of a text in a line of a terminal."""

_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
"""What a spreadsheet takes for the beginning of a formula, in the full width of East Asian fonts too."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def visible(text: str) -> str:
    r"""``text`` in which each character without a visible form is ``\xNN``, ``\uNNNN`` or ``\UNNNNNNNN``.

    These are control and format characters (newlines, escapes, bidirectional and zero-width marks), the bytes of a file
    name that are no UTF-8, private and unassigned ones, and the separators of lines and paragraphs. Letters and marks
    of all scripts, symbols and all kinds of spaces stay. UTF-8 that an ASCII locale did not decode is decoded.
    """
    return text if text.isprintable() else "".join(map(_visible, _decoded(text)))


def composed(text: str) -> str:
    """``text`` in Unicode's composed form: macOS and some archives write ``é`` as ``e`` and an accent.

    UTF-8 that an ASCII locale did not decode is decoded.
    """
    return unicodedata.normalize("NFC", _decoded(text))


def storable(text: str) -> str:
    """``text`` as UTF-8 can store it: bytes of a file name that are no UTF-8 are escapes, such as ``\\xe9``."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair of surrogates
        return text.encode("utf-8", "backslashreplace").decode()


def one_line(text: object, most: int = LONGEST) -> str:
    """``text`` for one line: ``visible``, and of at most ``most`` (>= 10) characters, by leaving out the middle."""
    text, side = str(text), (most - 5) // 2
    shown = visible(text if len(text) <= 2 * most else text[:most] + text[-most:])
    return shown if len(shown) <= most else f"{shown[:side]} ... {shown[-side:]}"


def each_line(text: str) -> str:
    """Lines for a terminal: ``visible`` but for the newlines between them."""
    return "\n".join(map(visible, text.split("\n")))


def escape_xml(text: object) -> str:
    """``text`` as content or attribute of HTML and XML: ``visible``, with references for ``& < > " '``."""
    return html.escape(visible(str(text)))


def csv_cell(value: Any) -> Any:
    """A cell of a .csv table that no spreadsheet runs; values other than text stay as they are.

    Text that begins like a formula (``= + - @``, a tab or the end of a line) and is not a number gets an apostrophe in
    front. Newlines stay, in quotes; other characters without a visible form are shown by their number.
    """
    if not isinstance(value, str):
        return value
    runs = _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    return ("'" if runs else "") + each_line(value)


def _decoded(text: str) -> str:
    """``text`` with the characters of the UTF-8 that an ASCII locale did not decode."""
    with contextlib.suppress(UnicodeEncodeError):  # half of a pair of surrogates
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return text


def _visible(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no text
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def part_of_name(text: str) -> str:
    """``text`` as a part of a file's name: what is no letter, digit, ``_``, ``.`` or ``-`` becomes ``-``."""
    return re.sub(r"[^\w.-]", "-", text)
