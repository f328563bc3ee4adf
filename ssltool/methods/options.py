"""How a method's options are declared and read.

Each method has a frozen dataclass of ``settings.setting``; options that several methods share are declared here once,
as functions of their default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ssltool.errors import UsageError, unknown
from ssltool.settings import Checked, may_be_none, setting, value_type


class Ineffective(NamedTuple):
    """The options in ``names`` do nothing ``when`` this is so, namely with ``why``."""

    names: tuple[str, ...]
    when: bool
    why: str


class MethodOptions(Checked):
    """Refuses values out of range, naming the option as ``--set`` does."""

    @staticmethod
    def flag_name(name: str) -> str:
        return f"--set {name}"

    def ineffective(self) -> list[Ineffective]:
        """Options that do nothing beside the others."""
        return []


def width(default: int, what: str = "the projection") -> Any:
    """The width of a layer."""
    return setting(default, f"width of {what}", minimum=1)


def temperature(default: float, what: str = "the similarities are") -> Any:
    """What logits are divided by."""
    return setting(default, f"temperature that {what} divided by", above=0)


def queue_size(default: int) -> Any:
    """How many earlier embeddings are kept."""
    return setting(default, "embeddings of earlier batches that are kept", minimum=1)


def fix_pred_lr() -> Any:
    """Whether the predictor's learning rate stays constant."""
    return setting(False, "keep the predictor's learning rate constant")


def momentum(default: float) -> Any:
    """How slowly the teacher follows."""
    return setting(default, "momentum of the teacher: 1 stands still, 0 is a copy", minimum=0, maximum=1)


def momentum_final(default: float | None) -> Any:
    """Where the teacher's momentum ends."""
    return setting(default, "momentum at the end, along a cosine [None: the same throughout]", minimum=0, maximum=1)


def local_crops(default: int) -> Any:
    """How many small crops there are beside the two large ones."""
    return setting(default, "small crops of each image beside the two large ones", minimum=0)


@dataclass(frozen=True)
class AsymmetricViews(MethodOptions):
    """Options of a method whose paper makes its two views in two ways."""

    asymmetric: bool = setting(False, "BYOL's two kinds of views: one always blurred, one sometimes solarised")


@dataclass(frozen=True)
class MultiCrop(MethodOptions):
    """Options of a method that sees small crops beside its two views."""

    local_crops: int = local_crops(6)
    local_size: int | None = setting(
        None, "side of the small crops in pixels [default: 96/224 of the image size, in whole patches]", minimum=4
    )

    def ineffective(self) -> list[Ineffective]:
        return [Ineffective(("local_size",), self.local_crops == 0, "local_crops=0")]


@dataclass(frozen=True)
class LabelledSupport(MethodOptions):
    """Options of a method that is shown some labelled images at each step."""

    labels_fraction: float = setting(0.1, "share of each class's images whose labels are used", above=0, maximum=1)
    labels_path: str | None = setting(
        None, "use the labels of the image numbers in this .npy file instead", metavar="FILE"
    )
    support_classes: int | None = setting(None, "classes in a step's support [default: all]", minimum=2)
    support_per_class: int = setting(7, "images of each class in a step's support", minimum=1)


@dataclass(frozen=True)
class TrainedTeacher(MethodOptions):
    """Options of a method that learns from a trained backbone."""

    teacher: str | None = setting(None, "checkpoint of the teacher", metavar="FILE")


def ineffective_options(options: Any) -> Iterator[tuple[str, str]]:
    """Options away from their defaults that do nothing beside the others, and with what."""
    defaults = {f.name: f.default for f in dataclasses.fields(options)}
    for names, when, why in options.ineffective():
        yield from ((name, why) for name in names if when and getattr(options, name) != defaults[name])


def read_options(method: str, cls: type[MethodOptions], given: Mapping[str, Any]) -> Any:
    """The options of a method from names and values, which may be text.

    Raises:
        SSLToolError: for an unknown name (the right ones are listed), a wrong type, a value out of range, or an option
            that does nothing beside the others.
    """
    options = parse_options(method, cls, given)
    for name, why in ineffective_options(options):
        raise UsageError(f"--set {name}={getattr(options, name)} does nothing with {why}; leave one of them out")
    return options


def parse_options(method: str, cls: type[MethodOptions], given: Mapping[str, Any]) -> Any:
    """``read_options`` without a look at whether each option does something."""
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in given.items():
        name = name.replace("-", "_")
        if name not in names:
            raise unknown(f"option of {method}", name, names)
        kind = value_type(cls, name)
        if isinstance(value, str) and value.lower() == "none" and may_be_none(cls, name):
            values[name] = None
        else:
            values[name] = _parse(name, value, kind) if isinstance(value, str) else value
        if kind is float and values[name] is not None:
            values[name] = float(values[name])
    return cls(**values)


def _parse(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() in words:
            return words[text.lower()]
    else:
        try:
            return kind(text)
        except ValueError:
            pass
    wanted = "true or false" if kind is bool else f"of type {kind.__name__}"
    raise UsageError(f"--set {name}={text}: the value must be {wanted}")


def gather_options(assignments: tuple[str, ...], flags: Mapping[str, Any]) -> dict[str, Any]:
    """``--set name=value`` pairs and the flags that stand for method options, as one mapping.

    Raises:
        SSLToolError: for a pair without ``=``, or an option that is given twice.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise UsageError(f"--set {assignment}: write it as NAME=VALUE")
        if name in given:
            raise UsageError(f"the option {name} is given twice; keep one of them")
        given[name] = value.strip()
    return given
