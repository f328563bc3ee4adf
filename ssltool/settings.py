"""How a setting is declared and checked: a dataclass field that knows its flags, its help text and its range.

``ssltool.config`` declares the stages' settings this way, each method its options. Only the standard library is
imported.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Iterable, Iterator
from dataclasses import field
from typing import Any

from ssltool.errors import UsageError


def setting(
    default: Any,
    help: str,
    *flags: str,
    section: str = "Options",
    names: str = "",
    choices: Collection[str] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    fixed: bool = False,
    method_option: str | None = None,
    metavar: str | None = None,
    nargs: int = 1,
) -> Any:
    """A dataclass field with what the command line and the checks need to know about it.

    ``flags`` are further spellings beside ``--name``; ``names`` is the registry of the values, as ``module:attribute``,
    whose names replace ``{names}`` in the help; ``minimum`` and ``maximum`` are inclusive, ``above`` exclusive;
    ``fixed`` settings may not change when a run is resumed; ``method_option`` names the method's option that a setting
    stands for; ``nargs`` is how many values follow the flag.
    """
    metadata = {k: v for k, v in locals().items() if k != "default"}
    return field(default=default, metadata=metadata)


def value_type(cls: type, name: str) -> type:
    """The plain type of a setting: ``int`` for ``int | None``, say."""
    hint = typing.get_type_hints(cls)[name]
    options = [t for t in typing.get_args(hint) if t is not type(None)]
    kind: type = options[0] if isinstance(hint, types.UnionType) else hint
    return kind


def may_be_none(cls: type, name: str) -> bool:
    """Whether a setting may have no value."""
    return type(None) in typing.get_args(typing.get_type_hints(cls)[name])


def flag(name: str) -> str:
    """The command-line spelling of a setting's name."""
    return "--" + name.replace("_", "-")


def numbers(text: str, name: str) -> tuple[float, ...]:
    """A comma-separated list of different numbers above 0, as the setting ``name`` takes it: 0.1,1,10.

    Raises:
        UsageError: naming the flag.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value < float("inf") for value in values) or len(set(values)) < len(values):
        raise UsageError(f"{flag(name)} is '{text}'; it must be different numbers above 0, as in 0.1,1,10")
    return values


Rule = tuple[tuple[str, ...], bool, str]
"""Names of settings, whether they do nothing, and beside what: ``(("lr",), True, "with --solver lbfgs")``."""


def ineffective(config: Any, rules: Iterable[Rule]) -> Iterator[tuple[str, str]]:
    """Settings away from their defaults that do nothing by ``rules``, and why."""
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    for names, condition, why in rules:
        for name in names:
            if condition and getattr(config, name) != defaults[name]:
                yield name, why


def refuse_ineffective(found: Iterable[tuple[str, str]]) -> None:
    """Refuses settings that do nothing: an ignored flag is a misunderstanding.

    Raises:
        UsageError: naming the first flag in ``found`` and why it has no effect.
    """
    for name, why in found:
        raise UsageError(f"{flag(name)} does nothing {why}; leave one of them out")


class Checked:
    """Refuses values outside the declared choices and ranges, naming the flag.

    Raises:
        UsageError: from the constructor, at the first setting that is out of range.
    """

    @staticmethod
    def flag_name(name: str) -> str:
        """How a setting is written on the command line."""
        return flag(name)

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value, m = getattr(self, f.name), f.metadata
            if value is None:
                continue
            if m.get("choices") and value not in m["choices"]:
                raise UsageError(f"{self.flag_name(f.name)} is '{value}'; it must be one of {', '.join(m['choices'])}")
            low, high, above = m.get("minimum"), m.get("maximum"), m.get("above")
            within = (
                (low is None or value >= low) and (high is None or value <= high) and (above is None or value > above)
            )
            if not within:  # NaN is within no bounds
                bounds = [f"at least {low}"] if low is not None else []
                bounds += [f"at most {high}"] if high is not None else []
                bounds += [f"greater than {above}"] if above is not None else []
                raise UsageError(f"{self.flag_name(f.name)} is {value}; it must be {' and '.join(bounds)}")
