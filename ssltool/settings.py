"""How a setting is declared and checked: a dataclass field that knows its flags, its help text and its range.

``ssltool.config`` declares the stages' settings this way, each method its options. Only the standard library is
imported.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
import typing
from collections.abc import Collection, Iterable, Iterator
from dataclasses import field
from typing import Any

from ssltool.errors import UsageError, counted
from ssltool.files.overwriting import refuse_overwriting

Settings = dict[str, Any]
"""Settings as plain values, as in ``config.json`` and in a checkpoint's ``config``."""

Record = dict[str, Any]
"""Named results as plain values: a line of ``metrics.jsonl``, or the result of a stage."""

SIZE_LIMIT = "SSLTOOL_SIZE_LIMIT"
"""The environment variable with the limit in MB of what is parsed of a file as a whole. ``--size-limit`` sets it, for
worker processes too."""


def defaults_of(settings: Any) -> Settings:
    """The defaults of a dataclass of settings, or of its class; all settings have one."""
    return {f.name: f.default for f in dataclasses.fields(settings)}


def setting(
    default: Any,
    help: str,
    *flags: str,
    section: str = "Options",
    aliases: Collection[str] = (),
    alias: bool = False,
    advanced: bool = False,
    names: str = "",
    choices: Collection[str] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    fixed: bool = False,
    method_option: str | None = None,
    metavar: str | None = None,
    nargs: int = 1,
    alone: Collection[str] = (),
    writes: bool = False,
) -> Any:
    """A dataclass field with what the command line and the checks need to know about it.

    Args:
        flags: further flags beside ``--name``, such as ``-b``.
        aliases: further flags that are accepted but not shown, such as ``--learning-rate``.
        alias: the whole setting is another name for something else; only ``--help-all`` shows it.
        advanced: only ``--help-all`` shows it.
        names: the registry of the values, or a function that returns those that begin with a text, as
            ``module:attribute``; shell completion offers them and they replace ``{names}`` in the help.
        choices: the allowed values; may be a registry, to which plug-ins add.
        minimum, maximum, above: bounds; the first two are inclusive, ``above`` is exclusive.
        fixed: the setting may not change when a run is resumed.
        method_option: the method's option that the setting stands for.
        nargs: how many values follow the flag.
        alone: values that follow the flag alone, in place of ``nargs`` values, or of a number.
        writes: the value is the path of a file that the stage writes.
    """
    metadata = {k: v for k, v in locals().items() if k != "default"}
    return field(default=default, metadata=metadata)


MOST = 2**63 - 1
"""The largest integer of a setting without a maximum of its own: integers of files and tensors have 64 bits."""

LARGEST = 1e30
"""The largest absolute value of a float; float32, in which networks compute, holds its product with a few others."""


def bounds(cls: type, f: dataclasses.Field[Any]) -> tuple[Any, Any, Any]:
    """The bounds of a setting of the class ``cls``: the inclusive minimum, the inclusive maximum, and the value that
    it must be greater than; None where there is none. Numbers without a maximum of their own have a general one."""
    m, kind = f.metadata, value_type(cls, f.name)
    low, high, above = m.get("minimum"), m.get("maximum"), m.get("above")
    most = {int: MOST, float: LARGEST}.get(kind)
    if most is not None:
        high = most if high is None else high
        low = -most if low is None and above is None else low
    return low, high, above


def _within(value: Any, low: Any, high: Any, above: Any) -> bool:
    """Whether ``value`` is within ``bounds``; NaN is within none."""
    return (low is None or value >= low) and (high is None or value <= high) and (above is None or value > above)


def _limits(cls: type, f: dataclasses.Field[Any], value: Any) -> str:
    """The bounds of a setting in words: its own, or all of them if ``value`` is within its own."""
    own = f.metadata.get("minimum"), f.metadata.get("maximum"), f.metadata.get("above")
    low, high, above = bounds(cls, f) if _within(value, *own) else own
    limits = [f"at least {_short(low)}"] if low is not None else []
    limits += [f"greater than {_short(above)}"] if above is not None else []
    if high == sys.float_info.max:
        limits += ["finite"] if value > high else []
    elif high is not None:
        limits.append(f"at most {_short(high)}")
    return " and ".join(limits)


def _short(value: Any) -> str:
    """A number as in Python, and a whole one without decimals."""
    return str(value).removesuffix(".0")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def value_type(cls: type, name: str) -> type:
    """The plain type of a setting: ``int`` for ``int | None``, say."""
    hint = _hints(cls)[name]
    options = [t for t in typing.get_args(hint) if t is not type(None)]
    kind: type = options[0] if isinstance(hint, types.UnionType) else hint
    return kind


def may_be_none(cls: type, name: str) -> bool:
    """Whether a setting may have no value."""
    return type(None) in typing.get_args(_hints(cls)[name])


def flag(name: str) -> str:
    """The command-line spelling of a setting's name."""
    return "--" + name.replace("_", "-")


def numbers(text: str, name: str) -> tuple[float, ...]:
    """The values of a setting that is a comma-separated list of distinct numbers above 0, such as 0.1,1,10.

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
"""Names of settings, whether they have no effect, and why: ``(("lr",), True, "with --solver lbfgs")``."""


def ineffective(config: Any, rules: Iterable[Rule]) -> Iterator[tuple[str, str]]:
    """Settings that are not at their defaults and have no effect by ``rules``, and why."""
    defaults = defaults_of(config)
    for names, condition, why in rules:
        for name in names:
            if condition and getattr(config, name) != defaults[name]:
                yield name, why


def reset_ineffective(config: Any, names: Collection[str]) -> Any:
    """``config`` with the defaults of the settings in ``names`` that have no effect."""
    defaults = defaults_of(config)
    reset = {name: defaults[name] for name, _ in ineffective(config, config.conflicts()) if name in names}
    return dataclasses.replace(config, **reset)


class Checked:
    """Base of all settings classes. The constructor checks each value, ``check`` how they fit together.

    The two are apart because settings are also built from saved ones, whose filled-in defaults may have no effect.

    Raises:
        UsageError: from the constructor, at the first value outside its choices or range.
    """

    def conflicts(self) -> list[Rule]:
        """Which settings have no effect beside the others."""
        return []

    def mistakes(self) -> Iterator[str]:
        """What is wrong with the settings together, a message each."""
        yield from ()

    def check(self) -> None:
        """Refuses settings that have no effect or contradict each other. Stages call it once, before anything else.

        Raises:
            UsageError: for the first one.
            SSLToolError: if an output is also an input.
        """
        for name, why in ineffective(self, self.conflicts()):
            raise UsageError(f"{flag(name)} does nothing {why}; leave one of them out")
        for message in self.mistakes():
            raise UsageError(message)
        refuse_overwriting(*self._outputs_and_inputs())

    def _outputs_and_inputs(self) -> tuple[dict[str, str], list[str]]:
        """The paths of outputs by their flags, and what else is text, which may be paths of inputs."""
        outputs: dict[str, str] = {}
        inputs: list[str] = []
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if f.metadata.get("writes") and value is not None:
                outputs[self.flag_name(f.name)] = value
            else:
                inputs += [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, str)]
        return outputs, inputs

    @staticmethod
    def flag_name(name: str) -> str:
        """How a setting is written on the command line."""
        return flag(name)

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value, m = getattr(self, f.name), f.metadata
            if value is None:
                continue
            several = isinstance(value, (list, tuple))
            wanted = m.get("nargs", 1)
            if several and len(value) != wanted > 1 and not (len(value) == 1 and m["alone"]):
                raise UsageError(f"{self.flag_name(f.name)} has {counted(len(value), 'value')}; it must have {wanted}")
            if m.get("choices") and value not in m["choices"]:
                raise UsageError(f"{self.flag_name(f.name)} is '{value}'; it must be one of {', '.join(m['choices'])}")
            numbers = [one for one in (value if several else (value,)) if one not in m.get("alone", ())]
            if value_type(type(self), f.name) is int and any(isinstance(one, str) for one in numbers):
                raise UsageError(f"{self.flag_name(f.name)} is '{value}'; it must be a number or {m['alone'][0]}")
            wrong = next((one for one in numbers if not _within(one, *bounds(type(self), f))), None)
            if wrong is not None:
                found = " ".join(map(_short, value)) if several else _short(value)
                raise UsageError(f"{self.flag_name(f.name)} is {found}; it must be {_limits(type(self), f, wrong)}")
