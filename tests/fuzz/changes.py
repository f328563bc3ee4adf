"""Changes of nested dicts and lists: a place at any depth gets another value, name, copy or depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from fuzz.values import HOSTILE, Make, tweaked

Container = Any
"""A dict or a list, which holds the file's contents: ``[contents]`` is the outermost one."""

DEEP = 3000
"""Depth of nested lists."""


def random_place(root: Container, rng: Random) -> tuple[Container, Any, str]:
    """A container at any depth, one of its keys, and the path to it; all keys of a dict have the same chance."""
    container, key, path = root, 0, "contents"
    while True:
        inner = container[key]
        if not (isinstance(inner, (dict, list)) and inner) or (len(path) > 8 and rng.random() < 0.3):
            return container, key, path
        if container is root and rng.random() < 0.05:
            return container, key, path
        container = inner
        key = rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        path += f"[{key!r}]"


def change(root: Container, rng: Random, wrong: Mapping[str, Make], *, recursive: bool) -> str:
    """Changes one to three places of ``root`` and describes the changes; ``wrong`` are values of another type.

    ``recursive`` allows dicts that hold themselves, which pickles do and JSON does not.
    """
    count = rng.choice([1, 1, 1, 1, 2, 3])
    return "; ".join(_change_one(root, rng, wrong, recursive) for _ in range(count))


def _change_one(root: Container, rng: Random, wrong: Mapping[str, Make], recursive: bool) -> str:
    container, key, path = random_place(root, rng)
    kinds: dict[str, Callable[[], str]] = {
        "replaced": lambda: _replace(container, key, rng, wrong),
        "tweaked": lambda: _tweak(container, key, rng),
        "missing": lambda: _remove(container, key),
        "renamed": lambda: _rename(container, key, rng),
        "extra": lambda: _add(container, key, rng, wrong),
        "swapped": lambda: _swap(container, key, root, rng),
        "deep": lambda: _nest(container, key, rng),
    }
    chances = [8, 6, 3, 1, 1, 1, 0.3]
    if recursive:
        kinds["recursive"] = lambda: _recur(container, key)
        chances.append(0.3)
    kind = rng.choices(list(kinds), chances)[0]
    return f"{path} {kind}: {kinds[kind]()}"


def _replace(container: Container, key: Any, rng: Random, wrong: Mapping[str, Make]) -> str:
    name = rng.choice(list(wrong))
    container[key] = wrong[name](container[key])
    return name


def _tweak(container: Container, key: Any, rng: Random) -> str:
    name, container[key] = tweaked(container[key], rng)
    return name


def _remove(container: Container, key: Any) -> str:
    del container[key]
    if isinstance(container, list) and not container:
        container.append({})  # the outermost one holds something
    return ""


def _rename(container: Container, key: Any, rng: Random) -> str:
    if not isinstance(container, dict):
        return "not a dict"
    new = rng.choice([f"{key}x", str(key).upper(), HOSTILE, "", 7, None])
    container[new] = container.pop(key)
    return repr(new)


def _add(container: Container, key: Any, rng: Random, wrong: Mapping[str, Make]) -> str:
    name = rng.choice(list(wrong))
    if isinstance(container, dict):
        container[rng.choice([HOSTILE, "extra", "format", "state_dict", "meta", "config"])] = wrong[name](1)
    else:
        container.insert(rng.randrange(len(container)) + 1, wrong[name](container[key]))
    return name


def _swap(container: Container, key: Any, root: Container, rng: Random) -> str:
    other, other_key, path = random_place(root, rng)
    first, second = container[key], other[other_key]
    if _holds(first, other) or _holds(second, container):
        return "nothing"  # one of them is a part of the other
    container[key], other[other_key] = second, first
    return path


def _holds(value: Any, container: Container) -> bool:
    if value is container:
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_holds(one, container) for one in inner)


def _nest(container: Container, key: Any, rng: Random) -> str:
    value, in_dicts = container[key], rng.random() < 0.5
    for _ in range(DEEP):
        value = {"a": value} if in_dicts else [value]
    container[key] = value
    return f"{DEEP} {'dicts' if in_dicts else 'lists'}"


def _recur(container: Container, key: Any) -> str:
    container[key] = container
    return ""
