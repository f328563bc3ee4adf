"""Declaration and parsing of method options.

Each method has a frozen dataclass of ``settings.setting``. Options that several methods share are declared here, as
functions of their default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ssltool.errors import UsageError, unknown
from ssltool.files.misfit import Misfit
from ssltool.files.schema import Check
from ssltool.files.setting_checks import setting_checks
from ssltool.settings import Checked, defaults_of, may_be_none, setting, value_type


class Ineffective(NamedTuple):
    """If ``when`` is true, the options in ``names`` have no effect because of the setting ``why``."""

    names: tuple[str, ...]
    when: bool
    why: str


@dataclass(frozen=True)
class MethodOptions(Checked):
    """Base class of method options. Values are range-checked; errors name the option as ``--set NAME``."""

    KEPT: ClassVar[tuple[str, ...]] = ()
    """Options with another default than in earlier versions, which a resumed run takes from its checkpoint."""

    @staticmethod
    def flag_name(name: str) -> str:
        return f"--set {name}"

    @classmethod
    def completed(cls, saved: Mapping[str, Any]) -> dict[str, Any]:
        """The ``saved`` options of a run. Those that its version did not have are added where they amounted to another
        value than their default."""
        return dict(saved)

    def ineffective(self) -> list[Ineffective]:
        """Options that have no effect in combination with the others."""
        return []


def width(default: int, what: str = "the projection") -> Any:
    """The width of a layer."""
    return setting(default, f"width of {what}", minimum=1)


def temperature(default: float, what: str = "the similarities are") -> Any:
    """The temperature that logits are divided by."""
    return setting(default, f"temperature that {what} divided by", above=0)


def negatives() -> Any:
    """Whether a contrastive loss has negatives."""
    return setting(True, "compare with other images; otherwise the loss is -cosine / temperature of the positive alone")


def queue_size(default: int) -> Any:
    """The number of earlier embeddings in a queue."""
    return setting(default, "number of embeddings of earlier batches in the queue", minimum=1)


def fix_pred_lr() -> Any:
    """Whether the learning rate of the predictor is constant."""
    return setting(False, "keep the learning rate of the predictor constant")


def momentum(default: float) -> Any:
    """The momentum of the teacher."""
    return setting(
        default, "momentum of the teacher; 0 copies the student, 1 freezes the teacher", minimum=0, maximum=1
    )


def momentum_final(default: float | None) -> Any:
    """The final momentum of the teacher."""
    return setting(default, "final momentum of the cosine schedule [None: constant momentum]", minimum=0, maximum=1)


def local_crops(default: int) -> Any:
    """The number of small crops in addition to the large views."""
    return setting(default, "small crops per image, in addition to the large ones", minimum=0, maximum=100)


@dataclass(frozen=True)
class AsymmetricViews(MethodOptions):
    """Options of a method whose paper uses different augmentations for its two views."""

    asymmetric: bool = setting(
        False, "BYOL's asymmetric augmentations: one view always blurred, the other sometimes solarised"
    )


@dataclass(frozen=True)
class SeveralViews(MethodOptions):
    """Options of a method whose loss takes any number of large views."""

    n_augs: int = setting(2, "number of views per image", minimum=2, maximum=100)


@dataclass(frozen=True)
class MultiCrop(MethodOptions):
    """Options of a multi-crop method: two large views and several small crops."""

    local_crops: int = local_crops(6)
    local_size: int | None = setting(
        None,
        "side of the small crops in pixels [default: 96/224 of the image size, rounded to whole patches]",
        minimum=4,
        maximum=8192,
    )

    def ineffective(self) -> list[Ineffective]:
        return [Ineffective(("local_size",), self.local_crops == 0, "local_crops=0")]


@dataclass(frozen=True)
class LabelledSupport(MethodOptions):
    """Options of a method that uses a support of labelled images at each step."""

    labels_fraction: float = setting(
        0.1, "fraction of the images of each class whose labels are used", above=0, maximum=1
    )
    labels_path: str | None = setting(
        None, "use the labels of the image indices in this .npy file instead", metavar="FILE"
    )
    support_classes: int | None = setting(None, "number of classes in the support of a step [default: all]", minimum=2)
    support_per_class: int = setting(7, "images per class in the support of a step", minimum=1, maximum=1_000_000)


@dataclass(frozen=True)
class TrainedTeacher(MethodOptions):
    """Options of a method that distils a trained backbone."""

    teacher: str | None = setting(None, "checkpoint of the teacher", metavar="FILE")


def ineffective_options(options: Any) -> Iterator[tuple[str, str]]:
    """Yields (name, reason) of each non-default option that has no effect."""
    defaults = defaults_of(options)
    for names, when, why in options.ineffective():
        yield from ((name, why) for name in names if when and getattr(options, name) != defaults[name])


def read_options(method: str, cls: type[MethodOptions], given: Mapping[str, Any]) -> Any:
    """Parses and validates the options of a method. Values may be strings.

    Raises:
        SSLToolError: for an unknown name, a wrong type, a value out of range, or an option that has no effect.
    """
    options = parse_options(method, cls, given)
    for name, why in ineffective_options(options):
        raise UsageError(f"--set {name}={getattr(options, name)} does nothing with {why}; leave one of them out")
    return options


def parse_options(method: str, cls: type[MethodOptions], given: Mapping[str, Any]) -> Any:
    """``read_options`` without the check for options that have no effect."""
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    checks = setting_checks(cls)
    for name, value in given.items():
        name = name.replace("-", "_")
        if name not in names:
            raise unknown(f"option of {method}", name, names)
        kind = value_type(cls, name)
        if kind is float and value is True:  # a flag that is on, as --moco-m-cos, is the number 1
            value = 1.0
        if isinstance(value, str) and value.lower() == "none" and may_be_none(cls, name):
            values[name] = None
        else:
            values[name] = _parse(name, value, kind) if isinstance(value, str) else _checked(name, value, checks[name])
        if kind is float and values[name] is not None:
            values[name] = float(values[name])
    return cls(**values)


def _checked(name: str, value: Any, check: Check) -> Any:
    """A ``value`` that is not text, from a file or from Python."""
    try:
        return check(value, {})
    except Misfit as misfit:
        raise UsageError(f"--set {name} is {misfit.found}; it must be {misfit.expected}") from misfit


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
    """Merges ``--set NAME=VALUE`` pairs with the flags that are aliases of method options.

    Raises:
        SSLToolError: for a pair without ``=``, or an option that is given more than once.
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
