"""Finds the weights of a network among the nested dicts of a file.

They are the tensors of one dict. Which one, if several hold a network, is said by ``CONTAINERS``, else by the user.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssltool.checkpoints.checkpoint_layouts import CONTAINERS, WRAPPERS
from ssltool.errors import SSLToolError
from ssltool.files.misfit import name_keys
from ssltool.files.placeholders import Placeholder, module_weights, shards

DEEPEST = 8
"""Dicts that are nested deeper than this are not searched."""

FEWEST = 8
"""Fewest tensors of a network."""

MOST_DICTS = 10_000
"""Maximum number of dicts that are searched; lists that hold one another several times can stand for any number."""

INNER_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Names of modules that are put around modules at any depth, and that no network has itself."""

NESTING = (dict, list, tuple, Placeholder)
SEPARATOR = "/"

Path = tuple[str, ...]


@dataclass(frozen=True)
class FoundWeights:
    """The weights of a network.

    Attributes:
        weights: the tensors of the dict, by their names without ``WRAPPERS``.
        path: the keys of the dict, joined by ``/``; empty for the whole file.
        others: the paths of the dicts that hold other networks.
        prefix: the beginning of the names of the network that the user chose in the dict, with a dot; else None.
    """

    weights: dict[str, Tensor]
    path: str = ""
    others: tuple[str, ...] = ()
    prefix: str | None = None

    def __str__(self) -> str:
        """Where the weights were, if that may be in question; else empty."""
        if self.others:
            return f"taken from '{self.path}', not from {_quoted(self.others)}"
        return "" if self.path in ("", *CONTAINERS) else f"taken from '{self.path}'"


def find_weights(path: object, entries: Mapping[Any, Any], key: str | None = None) -> FoundWeights:
    """The weights among the top-level ``entries`` of the file ``path``.

    Without ``key`` they are the tensors of the only dict, at any depth, that holds a network. If several do, it is the
    first of ``CONTAINERS`` that does, or what is in it, else the outermost dict. If no dict holds a network, the
    weights are the tensors of the first of ``CONTAINERS`` that has any, of the outermost dict, or of one that has many;
    there may be none.

    Args:
        key: the keys of the dict, joined by ``/``, or the beginning of parameter names, or both joined by ``/``.

    Raises:
        SSLToolError: if several dicts hold a network and nothing decides, if nothing has the ``key``, or if the file
            has only shards of tensors.
    """
    dicts: dict[str, dict[str, Tensor]] = {}
    for keys, weights in _dicts(entries):
        dicts.setdefault(SEPARATOR.join(keys), weights)
    networks = {at: weights for at, weights in dicts.items() if _is_network(weights)}
    if key is not None:
        return _with_key(path, key, dicts, networks)
    if not networks:
        if count := shards(entries):
            raise SSLToolError(
                f"{path} has parts of {count:,} tensors, one of several files that FSDP wrote; save the whole "
                "state_dict (torch.distributed.checkpoint.state_dict, full_state_dict=True), or consolidate the files"
            )
        large = (at for at, weights in dicts.items() if len(weights) >= FEWEST)
        first = next((at for at in (*CONTAINERS, "", *large) if at in dicts), "")
        return FoundWeights(dicts.get(first, {}), first)
    chosen = _preferred(networks)
    if chosen is None:
        raise SSLToolError(f"{path} holds several networks ({_quoted(networks)}); choose one with --key")
    return FoundWeights(networks[chosen], chosen, tuple(at for at in networks if at != chosen))


def _preferred(found: Collection[str]) -> str | None:
    """The one of the paths ``found`` that counts; None if there is none, or nothing decides."""
    for container in CONTAINERS:
        if inside := _inside_of(container, found):
            return _below(container, inside)
    outer = list(dict.fromkeys(at.partition(SEPARATOR)[0] for at in found))
    if "" in outer:
        return ""
    return _below(outer[0], list(found)) if len(outer) == 1 else None


def _inside_of(outer: str, found: Collection[str]) -> list[str]:
    return [at for at in found if at == outer or at.startswith(outer + SEPARATOR)]


def _below(outer: str, found: Collection[str]) -> str | None:
    """``_preferred`` for paths that all begin with the key ``outer``."""
    if outer in found and len(found) == 1:
        return outer
    inner = {at[len(outer) + 1 :]: at for at in found}
    chosen = _preferred(inner)
    return None if chosen is None else inner[chosen]


def _with_key(
    path: object, key: str, dicts: Mapping[str, dict[str, Tensor]], networks: Mapping[str, dict[str, Tensor]]
) -> FoundWeights:
    key = key.strip(SEPARATOR)
    if key in dicts:
        return FoundWeights(dicts[key], key, tuple(other for other in networks if other != key))
    inside, _, begins = key.rpartition(SEPARATOR)
    begins = begins.removesuffix(".") + "."
    places = [inside] if inside else list(dict.fromkeys([_preferred(networks) or "", *networks, *dicts]))
    for at in places:
        weights = dicts.get(at, {})
        if any(name.startswith(begins) for name in weights):
            return FoundWeights(weights, at, prefix=begins)
    prefixes = dict.fromkeys(name.partition(".")[0] for weights in networks.values() for name in weights)
    raise SSLToolError(
        f"{path}: nothing has the key {key}; dicts with networks: {_quoted(networks) or 'none'}; beginnings of "
        f"parameter names: {name_keys(prefixes, most=12)}"
    )


def _dicts(entries: Mapping[Any, Any]) -> Iterator[tuple[Path, dict[str, Tensor]]]:
    """The tensors of each dict, list and module that has any, the least nested first, with the keys of it."""
    waiting: deque[tuple[Path, Any]] = deque([((), entries)])
    for _ in range(MOST_DICTS):
        if not waiting:
            return
        at, value = waiting.popleft()
        weights = module_weights(value)
        if weights is None:
            inner = _inside(value)
            weights = {key: held for key, held in inner.items() if isinstance(held, Tensor)}
            if len(at) < DEEPEST:
                waiting += [((*at, key), held) for key, held in inner.items() if isinstance(held, NESTING)]
        if weights:
            yield at, _unwrapped(weights)


def _inside(value: Any) -> dict[str, Any]:
    """What a dict holds under text, a list under its indices, and an object under the names of its attributes."""
    if isinstance(value, Placeholder):
        value = value.state
    if isinstance(value, (list, tuple)) and any(isinstance(held, dict) for held in value):
        return {str(number): held for number, held in enumerate(value) if isinstance(held, dict)}
    return {key: held for key, held in value.items() if isinstance(key, str)} if isinstance(value, dict) else {}


def _is_network(weights: Mapping[str, Tensor]) -> bool:
    """Whether tensors are those of a network for images: several, one of which is that of a convolution."""
    return len(weights) >= FEWEST and any(tensor.dim() >= 4 for tensor in weights.values())


def _unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    while wrapper := next((w for w in WRAPPERS if all(name.startswith(w) for name in weights)), ""):
        weights = {name.removeprefix(wrapper): tensor for name, tensor in weights.items()}
    renamed = {_without_inner(name): tensor for name, tensor in weights.items()}
    return renamed if len(renamed) == len(weights) else weights


def _without_inner(name: str) -> str:
    for wrapper in INNER_WRAPPERS:
        name = name.replace(f".{wrapper}", ".").removeprefix(wrapper)
    return name


def _quoted(paths: Collection[str]) -> str:
    return name_keys([f"'{at}'" if at else "the outermost dict" for at in paths])
