"""Schemas: what the entries of a file must be, as small checks that are put together like the types they stand for.

::

    EPOCHS = listing(mapping({"epoch": integer(0)}, other=nested()))
    entries = conform(contents, mapping({"weight": tensor("C", "D"), "bias": tensor("C")}), path)

A check is a pure function of a value, which it returns with tensors detached, or it raises ``Misfit``. ``conform``
turns a misfit into one line with the file, the key, what was found and what is expected. The names of sizes, as ``C``
above, stand for the same number within one file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.files.misfit import Misfit, describe, key_path, name_keys

REGENERATE = "regenerate the file, or copy it again"

Sizes = dict[str, int]
"""The sizes of a file that have a name, with their values as far as they are known."""

INT64 = 2**63
"""Integers of files are from -2^63 to 2^63 - 1."""

MAX_DEPTH, MAX_VALUES = 32, 2_000_000
"""Maximum depth and number of nested values; lists that hold one another several times can stand for any number."""

MAX_EXPANDED = 2**26
"""Maximum size in bytes of a tensor that repeats the values in the file, as an expanded one does."""

KINDS = {
    "floating": (torch.float32, torch.float64, torch.float16, torch.bfloat16),
    "integer": (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
    "boolean": (torch.bool,),
}
"""The types of the elements of tensors."""


@dataclass(frozen=True)
class Check:
    """A check and the description of the values that fit. ``check(value, sizes)`` returns the value."""

    expected: str
    convert: Callable[[Any, Sizes], Any]

    def __call__(self, value: Any, sizes: Sizes) -> Any:
        return self.convert(value, sizes)


ANYTHING = Check("anything", lambda value, sizes: value)


def conform(value: Any, check: Check, file: object, *, sizes: Sizes | None = None, remedy: str = REGENERATE) -> Any:
    """``value``, which comes from ``file``, as ``check`` returns it.

    Args:
        sizes: sizes with names that are known before; those that the check finds are added.
        remedy: what the user can do about a misfit.

    Raises:
        SSLToolError: if the value does not fit.
    """
    try:
        return check(value, {} if sizes is None else sizes)
    except Misfit as misfit:
        path = key_path(misfit.keys)
        if misfit.found is None:
            message = f"{file} lacks {misfit.expected}{path and f' in {path}'}"
        else:
            message = f"{file}: {path or 'its content'} is {misfit.found}; expected {misfit.expected}"
        raise SSLToolError(f"{message}; {remedy}") from misfit


def entry(check: Check, default: Any = MISSING, default_factory: Any = MISSING) -> Any:
    """A field of a file format: a dataclass field whose value in a file must pass ``check``."""
    if default_factory is not MISSING:
        return field(default_factory=default_factory, metadata={"check": check})
    return field(default=default, metadata={"check": check})


def _range(what: str, minimum: float | None, maximum: float | None) -> str:
    if minimum is not None and maximum is not None:
        return f"{what} from {minimum:,} to {maximum:,}"
    if minimum is not None:
        return f"{what} of at least {minimum:,}"
    return what if maximum is None else f"{what} of at most {maximum:,}"


def integer(minimum: int | None = None, maximum: int | None = None) -> Check:
    """An integer of 64 bits, between the bounds, which are inclusive; a bool is none."""
    low, high = -INT64 if minimum is None else minimum, INT64 - 1 if maximum is None else maximum
    expected = _range("an integer", minimum, maximum)

    def convert(value: Any, sizes: Sizes) -> int:
        if type(value) is not int or not low <= value <= high:
            raise Misfit(describe(value), expected)
        return value

    return Check(expected, convert)


def real(minimum: float | None = None, maximum: float | None = None, *, finite: bool = True) -> Check:
    """A number between the bounds, which are inclusive. ``finite`` False also allows NaN and infinity."""
    low, high = -math.inf if minimum is None else minimum, math.inf if maximum is None else maximum
    expected = _range("a finite number" if finite and minimum is maximum is None else "a number", minimum, maximum)

    def convert(value: Any, sizes: Sizes) -> float:
        number = type(value) is float or (type(value) is int and -INT64 <= value < INT64)
        if number and not math.isfinite(value):
            number = not finite
        elif number:
            number = low <= value <= high
        if not number:
            raise Misfit(describe(value), expected)
        return value  # type: ignore[no-any-return]

    return Check(expected, convert)


def text(maximum: int = 10_000, *, minimum: int = 0) -> Check:
    """A string of ``minimum`` to ``maximum`` characters."""
    expected = f"text of {minimum:,} to {maximum:,} characters"

    def convert(value: Any, sizes: Sizes) -> str:
        if not isinstance(value, str) or not minimum <= len(value) <= maximum:
            raise Misfit(describe(value), expected)
        return value

    return Check(expected, convert)


def boolean() -> Check:
    """True or False."""

    def convert(value: Any, sizes: Sizes) -> bool:
        if not isinstance(value, bool):
            raise Misfit(describe(value), "True or False")
        return value

    return Check("True or False", convert)


def choice(*values: str | int | bool | None) -> Check:
    """One of the ``values``; True is not 1."""
    expected = f"one of {', '.join(map(str, values))}" if len(values) > 1 else str(values[0])

    def convert(value: Any, sizes: Sizes) -> Any:
        if not any(type(value) is type(other) and value == other for other in values):
            raise Misfit(describe(value), expected)
        return value

    return Check(expected, convert)


def either(*checks: Check) -> Check:
    """A value that passes one of ``checks``; the first that it passes returns it."""
    expected = " or ".join(check.expected for check in checks)

    def convert(value: Any, sizes: Sizes) -> Any:
        deepest: Misfit | None = None
        for check in checks:
            known = dict(sizes)
            try:
                converted = check(value, known)
            except Misfit as misfit:
                if len(misfit.keys) > (len(deepest.keys) if deepest else 0):
                    deepest = misfit
            else:
                sizes.update(known)
                return converted
        raise deepest or Misfit(describe(value), expected)

    return Check(expected, convert)


def optional(check: Check) -> Check:
    """None, or a value that passes ``check``."""

    def convert(value: Any, sizes: Sizes) -> Any:
        if value is None:
            return None
        try:
            return check(value, sizes)
        except Misfit as misfit:
            raise misfit if misfit.keys else Misfit(misfit.found, f"{misfit.expected} or None") from misfit

    return Check(f"{check.expected} or None", convert)


def listing(
    item: Check, length: int | str | None = None, *, minimum: int = 0, maximum: int = INT64, what: str = "a list"
) -> Check:
    """A list or tuple of values that pass ``item``, as a list.

    Args:
        length: the number of values, or the name of a size.
        minimum, maximum: bounds of the number of values, inclusive.
        what: the description of the list.
    """

    def convert(value: Any, sizes: Sizes) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            raise Misfit(describe(value), what)
        needed = sizes.setdefault(length, len(value)) if isinstance(length, str) else length
        if needed is not None and len(value) != needed:
            raise Misfit(describe(value), f"{what} of {needed:,}")
        if not minimum <= len(value) <= maximum:
            raise Misfit(describe(value), f"{what} of at least {minimum:,}" if len(value) < minimum else what)
        converted: list[Any] = []
        try:
            for each in value:
                converted.append(item(each, sizes))
        except Misfit as misfit:
            raise misfit.inside(len(converted)) from misfit
        return converted

    return Check(what, convert)


def sequence(items: Sequence[Check], what: str = "a list") -> Check:
    """A list or tuple of as many values as ``items``, each of which passes its own check."""
    whole = listing(ANYTHING, len(items), what=what)

    def convert(value: Any, sizes: Sizes) -> list[Any]:
        whole(value, sizes)
        converted: list[Any] = []
        try:
            for check, each in zip(items, value, strict=True):
                converted.append(check(each, sizes))
        except Misfit as misfit:
            raise misfit.inside(len(converted)) from misfit
        return converted

    return Check(what, convert)


def mapping(
    required: Mapping[Any, Check] | None = None,
    optional: Mapping[Any, Check] | None = None,
    other: Check | None = None,
    *,
    keys: Check | None = None,
    minimum: int = 0,
    what: str = "a dict",
) -> Check:
    """A dict, as a new dict.

    Args:
        required, optional: the checks of the values with these keys.
        other: the check of all other values; without it, there must be none.
        keys: the check of the other keys; text by default.
        minimum: the minimum number of entries.
        what: the description of the dict.
    """
    needed, known = tuple(required or ()), {**(required or {}), **(optional or {})}
    keys = keys or text(1000)

    def convert(value: Any, sizes: Sizes) -> dict[Any, Any]:
        if not isinstance(value, dict):
            raise Misfit(describe(value), what)
        if len(value) < minimum:
            raise Misfit(describe(value), f"{what} of at least {minimum}")
        if missing := [name for name in needed if name not in value]:
            raise Misfit(None, name_keys(missing))
        converted = {}
        for name, held in value.items():
            check = known.get(name, other)
            if check is None or name not in known:
                _check_key(name, keys if check else None, sizes)
            if check is not None:
                try:
                    converted[name] = check(held, sizes)
                except Misfit as misfit:
                    raise misfit.inside(name) from misfit
        return converted

    return Check(what, convert)


def _check_key(name: Any, keys: Check | None, sizes: Sizes) -> None:
    if keys is None:
        raise Misfit("an unknown entry", "no such key", name if isinstance(name, str) else describe(name))
    try:
        keys(name, sizes)
    except Misfit as misfit:
        raise Misfit(f"in a dict with the key {misfit.found}", f"keys that are {misfit.expected}") from misfit


def tensor(
    *shape: str | int | EllipsisType | None,
    kinds: str | Collection[str] = tuple(KINDS),
    finite: bool = False,
    filled: bool = False,
) -> Check:
    """A dense tensor on the CPU, detached.

    One that is sparse, nested, quantised, complex, of 8-bit floats or on the meta device does not fit.

    Args:
        shape: its sizes: numbers, names of sizes, or None for any size; ``...`` stands for any number of sizes.
        kinds: ``floating``, ``integer`` or ``boolean``, one or several.
        finite: no element may be NaN or infinite. This reads all elements.
        filled: there must be elements.
    """
    names = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    dtypes = frozenset(dtype for name in names for dtype in KINDS[name])
    kind = "a dense tensor of real numbers" if len(names) == len(KINDS) else f"a tensor of {' or '.join(names)} type"
    form = f"{'of' if len(names) == len(KINDS) else 'and'} shape ({', '.join(map(_size_name, shape))})"
    expected = kind if shape == (...,) else f"{kind} {form}"

    def convert(value: Any, sizes: Sizes) -> Tensor:
        plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested
        if not plain or value.device.type != "cpu" or value.dtype not in dtypes:
            raise Misfit(describe(value), expected)
        known = dict(sizes)
        if not _shape_fits(shape, tuple(value.shape), known):
            fixed = [f"{size} = {sizes[size]}" for size in shape if isinstance(size, str) and size in sizes]
            raise Misfit(describe(value), expected + (f" with {', '.join(fixed)}" if fixed else ""))
        if filled and not value.numel():
            raise Misfit(describe(value), f"{expected} with elements")
        sizes.update(known)
        held = value.untyped_storage().nbytes()
        if value.nbytes > max(held, MAX_EXPANDED):
            raise Misfit(f"{describe(value)} that repeats {held:,} bytes", expected)
        value = value.detach()
        blocks = (value.split(8192) if value.dim() else [value]) if finite else []
        if not all(bool(torch.isfinite(block).all()) for block in blocks):
            raise Misfit(f"{describe(value)} with NaN or infinite values", f"{expected} of finite values")
        return value

    return Check(expected, convert)


def _size_name(size: str | int | EllipsisType | None) -> str:
    return "..." if size is ... else "any" if size is None else str(size)


def _shape_fits(shape: Sequence[str | int | EllipsisType | None], actual: tuple[int, ...], sizes: Sizes) -> bool:
    if ... in shape:
        at, many = shape.index(...), max(len(actual) - len(shape) + 1, 0)
        shape = [*shape[:at], *[None] * many, *shape[at + 1 :]]
    needed = [sizes.setdefault(n, m) if isinstance(n, str) else n for n, m in zip(shape, actual, strict=False)]
    return len(shape) == len(actual) and all(n in (None, m) for n, m in zip(needed, actual, strict=True))


def nested(*, tensors: bool = False, depth: int = MAX_DEPTH) -> Check:
    """Numbers of 64 bits, text, booleans, None, and lists, tuples and dicts of these, of limited depth and number.

    The keys of dicts are text or integers. ``tensors`` also allows dense tensors.
    """
    expected = f"numbers, text, {'tensors, ' if tensors else ''}lists and dicts, nested up to {depth} deep"
    leaf = tensor(...)
    key = either(text(), integer())

    def convert(value: Any, sizes: Sizes) -> Any:
        count = 0

        def walk(value: Any, left: int) -> Any:
            nonlocal count
            count += 1
            if value is None or isinstance(value, (bool, float, str)):
                return value
            if type(value) is int and -INT64 <= value < INT64:
                return value
            if tensors and isinstance(value, Tensor):
                return leaf(value, sizes)
            if not isinstance(value, (list, tuple, dict)):
                raise Misfit(describe(value), expected)
            if not left or count > MAX_VALUES:
                raise Misfit("nested too deeply" if not left else f"more than {MAX_VALUES:,} values", expected)
            at: Any = 0
            try:
                if isinstance(value, dict):
                    converted = {}
                    for at, item in value.items():
                        _check_key(at, key, sizes)
                        converted[at] = walk(item, left - 1)
                    return converted
                items = []
                for at, item in enumerate(value):  # noqa: B007
                    items.append(walk(item, left - 1))
                return tuple(items) if isinstance(value, tuple) else items
            except Misfit as misfit:
                raise misfit.inside(at) from misfit

        return walk(value, depth)

    return Check(expected, convert)
