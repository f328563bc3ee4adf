"""Names of architectures of other libraries: ``LIBRARY:MODEL``, optionally followed by settings (``,key=value``)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ssltool.errors import SSLToolError, UsageError
from ssltool.files.text import part_of_name

LONGEST_NAME = 2_000
"""Maximum length of the name of an architecture with its settings, in characters."""

LIBRARY = re.compile(r"([a-z][a-z0-9_-]*):(.*)", re.DOTALL)

KEY = re.compile(r"([A-Za-z_]\w*)=")
WORD = re.compile(r"[\w./ -]+")
"""Text that is written without quotes."""

MOST_LAYERS, LARGEST = 1000, 2**20
"""Maximum number of layers, and maximum of any other number in a setting."""


class ArchName(NamedTuple):
    """An architecture of a library, such as ``timm:resnet50,output_stride=8``.

    Attributes:
        library: the name before the colon.
        model: the library's name of the model.
        settings: arguments of the model that differ from the library's own.
    """

    library: str
    model: str
    settings: dict[str, Any]

    def __str__(self) -> str:
        return compose(self.library, self.model, self.settings)


def file_name(name: str) -> str:
    """The architecture's ``name`` in paths: without ``:``, and with a hash in place of the settings."""
    arch = parse(name)
    if arch is None:
        return name
    digest = f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}" if arch.settings else ""
    return part_of_name(f"{arch.library}-{arch.model}{digest}")


def parse(name: str) -> ArchName | None:
    """The parts of ``name``; None if it has no library.

    Raises:
        UsageError: if it is too long, or the settings are not ``key=value``, separated by commas.
    """
    if len(name) > LONGEST_NAME:
        raise UsageError(f"the architecture {name[:40]}... has {len(name):,} characters; use at most {LONGEST_NAME:,}")
    match = LIBRARY.fullmatch(name)
    if match is None:
        return None
    model, _, rest = match[2].partition(",")
    try:
        return ArchName(match[1], model, _settings(rest))
    except ValueError as error:
        raise UsageError(f"{name}: {error}; write {match[1]}:{model},key=value,...") from error


def compose(library: str, model: str, settings: Mapping[str, Any]) -> str:
    """The name of ``model`` with ``settings``, which are values of JSON; ``parse`` gives them back."""
    listed = "".join(f",{key}={_spelled(value)}" for key, value in settings.items())
    return f"{library}:{model}{listed}"


def check_values(settings: Mapping[str, Any]) -> None:
    """Checks the numbers in ``settings``, which may come from a file, before a network is built with them.

    Raises:
        SSLToolError: for more than ``MOST_LAYERS`` layers, or a number that is not finite or above ``LARGEST``.
    """
    for key, value in settings.items():
        most = MOST_LAYERS if "depth" in key or "layers" in key else LARGEST
        wrong = next((number for number in _numbers(value) if not -most <= number <= most), None)
        if wrong is not None:
            raise SSLToolError(f"the setting {key} has the value {str(wrong)[:40]}; its maximum is {most:,}")


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in a value of JSON; NaN, which no comparison holds for, is among them."""
    if isinstance(value, (list, tuple, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _numbers(inner)
    elif isinstance(value, (int, float)):
        yield value


def _settings(text: str) -> dict[str, Any]:
    """The settings in ``key=value,key=value``.

    Raises:
        ValueError: if ``text`` is not of this form.
    """
    settings: dict[str, Any] = {}
    while text:
        key = KEY.match(text)
        if key is None:
            raise ValueError(f"'{text}' is not a setting")
        value, text = _first_value(text[key.end() :])
        settings[key[1]] = value
    return settings


def _first_value(text: str) -> tuple[Any, str]:
    """The value at the beginning of ``text``, and the text after it and its comma."""
    if text[:1] in ("[", "{", '"'):
        value, end = json.JSONDecoder().raw_decode(text)
        if text[end : end + 1] not in ("", ","):
            raise ValueError(f"a comma is missing before '{text[end:]}'")
        return value, text[end + 1 :]
    word, _, rest = text.partition(",")
    return _value(word), rest


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word


def _spelled(value: Any) -> str:
    """``value`` as a word if it is read as the same text, else as JSON."""
    if isinstance(value, str) and WORD.fullmatch(value) and _value(value) == value:
        return value
    return json.dumps(value, separators=(",", ":"))
