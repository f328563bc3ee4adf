"""Loads files of ``torch.save`` that hold objects of any class, without creating these.

torch's restricted unpickler calls only what it allows. Here it allows, under the name of each class or function in the
file that it would refuse, a new class that does nothing: a placeholder, which keeps the arguments and the state that
the file has for the object. What has that name is neither imported nor looked up. No other module may allow anything.
"""

from __future__ import annotations

import _compat_pickle
import pickle
import threading
import warnings
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, ClassVar

import torch
from torch import Tensor

from ssltool.files.pickle_outline import GETATTR, LONGEST_NAME, Name, NotReadable, Outline, Role, outline_pickle

MOST_NAMES = 1000
"""Maximum number of classes and functions that a file may name."""

MOST_WORK = 50_000_000
"""Maximum product of their number and that of the objects: torch goes through all names for each object."""

SHARDS = (".DTensor", ".ShardedTensor")
"""Ends of the names of classes of tensors that are spread over ranks."""

MODULE = ("_parameters", "_buffers", "_modules")
"""What every ``nn.Module`` has among its attributes."""

MOST_MODULES = 100_000
"""Maximum number of submodules; modules that hold one another several times can stand for any number."""

_LOCK = threading.Lock()  # what torch allows is global


class Placeholder:
    """An object that was not created.

    Attributes:
        name: the full name of its class, or of the function that would have returned it.
        args: the arguments in the file.
        state: the state in the file; None if there is none.
    """

    __slots__ = ("args", "state")
    name: ClassVar[str] = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Any:
        """An instance that keeps ``args``."""
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Nested(Placeholder):
    """``getattr``: of a placeholder class and a name, it returns another class, which torch is told to allow."""

    __slots__ = ()

    def __new__(cls, *args: Any) -> Any:
        if len(args) == 2 and is_placeholder_class(args[0]) and isinstance(args[1], str):
            inner = _new_class((args[0].name, args[1][:LONGEST_NAME]), Role.OBJECT)
            if len(torch.serialization.get_safe_globals()) > 2 * MOST_NAMES:
                raise pickle.UnpicklingError("too many names")
            torch.serialization.add_safe_globals([(inner, inner.name)])
            return inner
        return super().__new__(cls, *args)


class _Dict(Placeholder):
    """A class of dicts; its instances are an ``OrderedDict``."""

    __slots__ = ()

    def __new__(cls, *args: Any) -> Any:
        return OrderedDict()


class _List(Placeholder):
    """A class of lists; its instances are a ``list``."""

    __slots__ = ()

    def __new__(cls, *args: Any) -> Any:
        return []


class _Subclass(Tensor):
    """A class of tensors with attributes, which are ignored."""

    name: ClassVar[str] = ""
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __new__(cls, *args: Any) -> Any:
        """Raises ``TypeError``; torch makes instances of a tensor and never calls this."""
        raise TypeError(cls.name)

    def __setstate__(self, state: Any) -> None:
        pass


class _Wrapper(_Subclass):
    """A class of tensors that hold others, such as ``DTensor``."""

    held: Any = None

    def __setstate__(self, state: Any) -> None:
        self.held = state

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise NotImplementedError(cls.name)


ITEM_BYTES = {
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}
"""The bytes of an element of torch's storages, by their names; one in all others."""

BASES: Mapping[Role, type] = {
    Role.OBJECT: Placeholder,
    Role.DICT: _Dict,
    Role.LIST: _List,
    Role.TENSOR: _Subclass,
    Role.WRAPPER: _Wrapper,
}


def is_placeholder_class(value: Any) -> bool:
    """Whether ``value`` stands for a class or function, not for an object."""
    return isinstance(value, type) and issubclass(value, (Placeholder, _Subclass))


def _new_class(name: Name, role: Role) -> Any:
    spelled = ".".join(name)
    base = _Nested if name in GETATTR and role == Role.OBJECT else BASES[role]
    slots = {} if issubclass(base, Tensor) else {"__slots__": ()}
    return type(spelled.replace("\0", ""), (base,), {"name": spelled, "__module__": "", **slots})


def load_without_objects(
    source: Callable[[], Any],
    pickles: Sequence[IO[bytes]],
    *,
    most: int,
    mmap: bool = False,
    stored: Mapping[bytes, int] | None = None,
) -> Any:
    """What ``torch.save`` wrote, on the CPU, with a placeholder for each object that torch does not create by itself.

    Dicts and lists of other classes, such as ``defaultdict``, become an ``OrderedDict`` and a ``list``, and tensors of
    subclasses become tensors.

    Args:
        source: returns the file as ``torch.load`` takes it, at its beginning.
        pickles: the pickles in the file that hold objects. They are read first.
        most: the maximum number of operations of each.
        mmap: whether tensors are mapped into memory.
        stored: the bytes of each storage in the file, by its key; None if they are not known.

    Raises:
        NotReadable: as ``outline_pickle``, if the pickles name too many classes or use them too often, or if a storage
            is larger than its bytes, which torch does not check in all versions.
        Exception: what ``torch.load`` raises for other reasons.
    """
    outlines = [outline_pickle(stream, most) for stream in pickles]
    roles = {name: role for outline in outlines for name, role in outline.roles.items()}
    _check_amount(roles, outlines)
    _check_storages(outlines, stored or {})
    classes: dict[Name, Any] = {}
    for name, role in roles.items():
        known = _known_as(name)
        made = classes.setdefault(known, _new_class(known, role))
        classes.setdefault(name, made)
    with _only_allowed([(made, ".".join(name)) for name, made in classes.items()]):
        return _settled(_load(source(), mmap))


def _check_amount(roles: Mapping[Name, Role], outlines: Sequence[Outline]) -> None:
    uses = sum(outline.uses for outline in outlines)
    if len(roles) > MOST_NAMES or len(roles) * uses > MOST_WORK:
        raise NotReadable(f"it holds {uses:,} objects of {len(roles):,} classes, which is too many")


def _check_storages(outlines: Sequence[Outline], stored: Mapping[bytes, int]) -> None:
    for (_, name), key, count in (storage for outline in outlines for storage in outline.storages):
        size = count * ITEM_BYTES.get(name.removesuffix("Storage"), 1)
        if not 0 <= size <= stored.get(key, size):
            raise NotReadable(f"its storage {key!r} has {stored.get(key, 0):,} of {size:,} bytes", damaged=True)


def _known_as(name: Name) -> Name:
    """The name in Python 3 of what Python 2, and pickles of protocol 2, call ``name``."""
    renamed = _compat_pickle.NAME_MAPPING.get(name)
    return renamed or (_compat_pickle.IMPORT_MAPPING.get(name[0], name[0]), name[1])


@contextmanager
def _only_allowed(classes: list[Any]) -> Iterator[None]:
    """torch allows ``classes``, by their names, and nothing that other libraries have told it to."""
    with _LOCK:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            torch.serialization.add_safe_globals(classes)
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


def _load(source: Any, mmap: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)


def _settled(contents: Any) -> Any:
    """``contents`` with detached tensors of no subclass and without attributes, and dicts without attributes: these
    could hide methods, such as ``items``."""
    root = [contents]
    for node in _nodes(root):
        if isinstance(node, (OrderedDict, Counter)):
            vars(node).clear()
        if isinstance(node, (dict, list)):
            pairs = dict.items(node) if isinstance(node, dict) else enumerate(node)
            for key, value in [(key, value) for key, value in pairs if isinstance(value, Tensor)]:
                node[key] = _settled_tensor(value)
    return root[0]


def _settled_tensor(value: Tensor) -> Any:
    if isinstance(value, _Wrapper):
        whole = attributes(value.held).get("_local_tensor")
        summand = any(isinstance(node, Placeholder) and node.name.endswith("Partial") for node in _nodes(value.held))
        if isinstance(whole, Tensor) and not isinstance(whole, _Wrapper) and whole.shape == value.shape and not summand:
            return _settled_tensor(whole)
        shard = _new_class((type(value).name,), Role.OBJECT)(tuple(value.shape))  # type: ignore[arg-type]
        shard.state = value.held
        return shard
    return value if type(value) is Tensor and not vars(value) else Tensor.detach(value)


def attributes(state: Any) -> dict[Any, Any]:
    """The attributes in the state of an object, which is a dict, or a pair of it and of the slots."""
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    return {name: held for part in parts if isinstance(part, dict) for name, held in part.items()}


def _nodes(contents: Any) -> Iterator[Any]:
    """Every dict, list, tuple, set and placeholder in ``contents``, once, the least nested first."""
    waiting, seen = deque([contents]), {id(contents)}
    while waiting:
        node = waiting.popleft()
        yield node
        inner = dict.values(node) if isinstance(node, dict) else node
        if isinstance(node, Placeholder):
            inner = (node.args, node.state)
        for value in inner if isinstance(node, (dict, list, tuple, set, Placeholder)) else ():
            kept = isinstance(value, (dict, list, tuple, set, Placeholder)) or is_placeholder_class(value)
            if kept and id(value) not in seen:
                seen.add(id(value))
                waiting.append(value)


def placeholder_names(contents: Any) -> list[str]:
    """The names of the classes of all placeholders in ``contents``, each once, the least nested first."""
    return list(dict.fromkeys(node.name for node in _nodes(contents) if isinstance(node, Placeholder)))


def shards(contents: Any) -> int:
    """The number of tensors of which ``contents`` have a part only, as the files of single ranks do."""
    return sum(isinstance(node, Placeholder) and node.name.endswith(SHARDS) for node in _nodes(contents))


def module_weights(value: Any) -> dict[str, Tensor] | None:
    """The ``state_dict`` of a placeholder for a ``nn.Module``; None if ``value`` is none, or has too many modules."""
    weights: dict[str, Tensor] = {}
    waiting = [("", value)]
    for _ in range(MOST_MODULES):
        if not waiting:
            return weights
        prefix, module = waiting.pop()
        held = module_attributes(module)
        if held is None:
            if not prefix:
                return None
            continue
        parameters, buffers, modules = (held[name] for name in MODULE)
        left_out = held.get("_non_persistent_buffers_set")
        for name, tensor in [*parameters.items(), *buffers.items()]:
            hidden = isinstance(left_out, set) and name in left_out and name not in parameters
            if isinstance(tensor, Tensor) and isinstance(name, str) and not hidden:
                weights[f"{prefix}{name}"] = tensor
        waiting += [(f"{prefix}{name}.", inner) for name, inner in reversed(modules.items()) if isinstance(name, str)]
    return None


def module_attributes(value: Any) -> dict[str, Any] | None:
    """The attributes of a ``nn.Module``, which a traced one has as an argument."""
    if not isinstance(value, Placeholder):
        return None
    held = value.state if isinstance(value.state, dict) else next(iter(value.args), None)
    is_module = isinstance(held, dict) and all(isinstance(held.get(name), dict) for name in MODULE)
    return held if is_module else None
