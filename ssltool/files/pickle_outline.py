"""Reads a pickle without creating anything: which globals it names, and what it does with what they return."""

from __future__ import annotations

import pickle
import pickletools
from dataclasses import dataclass, field
from enum import Enum
from typing import IO, Any

LONGEST_NAME = 500
"""Maximum number of bytes of the name of a global."""

Name = tuple[str, str]
"""A global: its module, and its name in it."""

REBUILD, WRAPPER = ("torch._tensor", "_rebuild_from_type_v2"), ("torch._utils", "_rebuild_wrapper_subclass")
"""torch's functions that create subclasses of tensors."""

GETATTR = (("builtins", "getattr"), ("__builtin__", "getattr"))
"""The function by which a pickle names a class inside another one."""


ENCODE, LATIN = ("_codecs", "encode"), b"latin1"
"""The function by which protocol 2 writes bytes, and the only encoding that it needs. Others take minutes for little
text, such as punycode."""


class Role(Enum):
    """What the results of a global are used as."""

    OBJECT = "an object"
    DICT = "a dict that gets items"
    LIST = "a list that gets items"
    TENSOR = "a tensor of a subclass"
    WRAPPER = "a tensor of a subclass that holds others"


class NotReadable(Exception):
    """The pickle is ``damaged``, too ``large``, or holds what is not read; the message says what."""

    def __init__(self, reason: str, *, damaged: bool = False, large: bool = False) -> None:
        super().__init__(reason)
        self.damaged, self.large = damaged, large


@dataclass
class Outline:
    """The globals of a pickle, by module and name, the number of operations that use them, and the storages of tensors:
    the type, the key and the number of elements of each."""

    roles: dict[Name, Role] = field(default_factory=dict)
    uses: int = 0
    storages: set[tuple[Name, bytes, int]] = field(default_factory=set)


@dataclass(frozen=True)
class _Global:
    name: Name


@dataclass(frozen=True)
class _Made:
    """What a call of a global returned; ``name`` is None if the global is a class inside another one."""

    name: Name | None


_ENCODER = _Global(ENCODE)
_LATIN = object()
"""What stands on the stack for the name of the encoding."""


def _codes(names: str) -> set[bytes]:
    return {getattr(pickle, name) for name in names.split()}


PUSHES = {
    **dict.fromkeys(_codes("NONE NEWTRUE NEWFALSE EMPTY_LIST EMPTY_DICT EMPTY_SET"), 0),
    **{pickle.BININT: 4, pickle.BININT1: 1, pickle.BININT2: 2, pickle.BINFLOAT: 8},
}
"""Operations that push a value, and the bytes of their argument."""

INTEGERS = _codes("BININT BININT1 BININT2")
SIGNED = _codes("BININT LONG1")
KEPT = 8
"""Values at the beginning of a stack that are kept: a storage has fewer, and long lists would take memory."""

LENGTHS = {pickle.BINUNICODE: 4, pickle.SHORT_BINSTRING: 1, pickle.LONG1: 1}
"""Operations that push a value whose length precedes it, and the bytes of the length."""

TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}
GETS = {pickle.BINGET: 1, pickle.LONG_BINGET: 4}
PUTS = {pickle.BINPUT: 1, pickle.LONG_BINPUT: 4}


def outline_pickle(stream: IO[bytes], most: int) -> Outline:
    """The outline of the pickle at the position of ``stream``, which is then behind it.

    Raises:
        NotReadable: if it is damaged, has more than ``most`` operations, or one that torch's ``weights_only`` does not
            read.
    """
    try:
        return _Reader(stream).outline(most)
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise NotReadable("it is damaged", damaged=True) from error


class _Reader:
    """The stack of an unpickler, with globals, calls and tuples on it, the integers and texts at its beginning, and
    None for all other values."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.found = stream, Outline()
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.encoders = 0  # uses of ENCODE that are no call with LATIN

    def outline(self, most: int) -> Outline:
        read, memo = self.stream.read, self.memo
        for _ in range(most):
            code = read(1)
            if code in LENGTHS:
                size = int.from_bytes(read(LENGTHS[code]), "little")
                data = read(size)
                if len(data) < size:
                    break
                self.stack.append(_LATIN if data == LATIN else self._kept(code, data))
            elif code in PUTS:
                memo[int.from_bytes(read(PUTS[code]), "little")] = self.stack[-1]
            elif code in PUSHES:
                data = read(PUSHES[code])
                self.stack.append(self._kept(code, data) if code in INTEGERS else None)
            elif code in GETS:
                self.stack.append(memo[int.from_bytes(read(GETS[code]), "little")])
                self.encoders += self.stack[-1] is _ENCODER
            elif code in TUPLES:
                self.stack[-TUPLES[code] :] = [tuple(self.stack[-TUPLES[code] :])]
            elif code == pickle.STOP:
                if self.encoders:
                    raise NotReadable("it encodes text in another way than pickles do")
                return self.found
            elif code:
                self._step(code)
            else:
                break
        else:
            raise NotReadable(f"it has more than {most:,} operations", large=True)
        raise NotReadable("it is cut short", damaged=True)

    def _step(self, code: bytes) -> None:
        stack = self.stack
        if code == pickle.GLOBAL:
            name = (self._line(), self._line())
            self.found.roles.setdefault(name, Role.OBJECT)
            stack.append(_ENCODER if name == ENCODE else _Global(name))
            self.encoders += name == ENCODE
        elif code in (pickle.REDUCE, pickle.NEWOBJ):
            arguments, called = stack.pop(), stack.pop()
            stack.append(self._call(called, arguments))
        elif code in (pickle.BUILD, pickle.APPEND):
            stack.pop()
            self._used(Role.LIST if code == pickle.APPEND else None)
        elif code == pickle.SETITEM:
            del stack[-2:]
            self._used(Role.DICT)
        elif code == pickle.MARK:
            self.marks.append(stack)
            self.stack = []
        elif code in (pickle.APPENDS, pickle.SETITEMS, pickle.TUPLE):
            self.stack = self.marks.pop()
            if code == pickle.TUPLE:
                self.stack.append(tuple(stack))
            else:
                self._used(Role.LIST if code == pickle.APPENDS else Role.DICT)
        elif code == pickle.EMPTY_TUPLE:
            stack.append(())
        elif code == pickle.PROTO:
            self.stream.read(1)
        elif code == pickle.BINPERSID:
            if isinstance(stack[-1], tuple) and len(stack[-1]) == 4:  # a tensor's storage has more entries
                raise NotReadable("it holds the class of a network with its program, as torch's legacy format does")
            self._storage(stack[-1])
            stack[-1] = None
        else:
            raise _foreign(code)

    def _kept(self, code: bytes, data: bytes) -> int | bytes | None:
        """The integer or the short text that an operation pushes, if it is one of the first on the stack."""
        if len(self.stack) >= KEPT or len(data) > LONGEST_NAME:
            return None
        if code in INTEGERS or code == pickle.LONG1:
            return int.from_bytes(data, "little", signed=code in SIGNED)
        return data

    def _storage(self, value: Any) -> None:
        """Notes a storage: ("storage", type, key, location, number of elements), and more in the legacy format."""
        if isinstance(value, tuple) and len(value) >= 5:
            _, kind, key, _, count = value[:5]
            if not (isinstance(kind, _Global) and isinstance(key, bytes) and isinstance(count, int)):
                raise NotReadable("it is damaged: a storage has no type, key or size", damaged=True)
            self.found.storages.add((kind.name, key, count))

    def _call(self, called: Any, arguments: Any) -> _Made:
        if not isinstance(called, _Global):
            if isinstance(called, _Made) and called.name in GETATTR:
                return _Made(None)
            raise NotReadable("it calls what is no class or function")
        self.found.uses += 1
        if called is _ENCODER and isinstance(arguments, tuple) and arguments[1:] == (_LATIN,):
            self.encoders -= 1
        if called.name == REBUILD and isinstance(arguments, tuple) and len(arguments) == 4:
            function, kind = arguments[:2]
            if isinstance(kind, _Global):
                wraps = isinstance(function, _Global) and function.name == WRAPPER
                self.found.roles[kind.name] = Role.WRAPPER if wraps else Role.TENSOR
        return _Made(called.name)

    def _used(self, role: Role | None) -> None:
        """Notes the role of what lies on the stack, to which an operation adds items or state."""
        target = self.stack[-1]
        if isinstance(target, _Made):
            self.found.uses += 1
            if role is not None and target.name is not None:
                self.found.roles[target.name] = role

    def _line(self) -> str:
        line = self.stream.readline(LONGEST_NAME + 1)
        if not line.endswith(b"\n"):
            raise NotReadable(f"it names a global with more than {LONGEST_NAME} characters")
        return line[:-1].decode("utf-8")


def _foreign(code: bytes) -> NotReadable:
    """The error for a pickle with the operation ``code``, which torch does not read."""
    operation = next((op for op in pickletools.opcodes if op.code == code.decode("latin-1")), None)
    if operation is None:
        return NotReadable("it is damaged", damaged=True)
    if operation.proto > 2:
        return NotReadable("its objects have a later pickle protocol than 2, which torch reads only by executing them")
    return NotReadable(f"its objects have the operation {operation.name}, which torch.save does not write")
