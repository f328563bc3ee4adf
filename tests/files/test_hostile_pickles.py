"""Files whose pickles call functions, set attributes or import modules: nothing of it happens.

Each program is the pickle of a file of ``torch.save``, in both formats. The traps are the functions and classes of this
module, and what Python's audit events tell of.
"""

from __future__ import annotations

import io
import pickle
import random
import struct
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ssltool.checkpoints.read import extract_settings
from ssltool.errors import SSLToolError
from ssltool.files.placeholders import Placeholder, module_weights, placeholder_names
from ssltool.files.torch_files import load_dict

SPRUNG: list[str] = []
EVENTS = ("os.", "subprocess.", "shutil.", "socket.", "ctypes.", "code.", "pty.", "urllib.", "function.", "webbrowser.")
"""Beginnings of the audit events of what a file must not do."""

HARMLESS = ("os.listdir", "os.scandir", "os.putenv", "os.fork", "os.walk")
WATCHING = [False]


def _watch(event: str, arguments: Any) -> None:
    if WATCHING and WATCHING[0] and event.startswith(EVENTS) and not event.startswith(HARMLESS):
        SPRUNG.append(event)


sys.addaudithook(_watch)


def trap(*args: Any, **kwargs: Any) -> Any:
    SPRUNG.append("trap")
    return trap


class Meta(type):
    def __call__(cls, *args: Any) -> Any:
        SPRUNG.append("call")
        return super().__call__(*args)

    def __getattr__(cls, name: str) -> Any:
        if not name.startswith("__"):
            SPRUNG.append(name)
        raise AttributeError(name)


class Trap(metaclass=Meta):
    def __new__(cls, *args: Any) -> Any:
        SPRUNG.append("new")
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        SPRUNG.append("setstate")

    def __init_subclass__(cls) -> None:
        SPRUNG.append("subclass")


hostile = types.ModuleType("hostile_module_of_tests")
hostile.trap, hostile.Trap = trap, Trap  # type: ignore[attr-defined]


class Lazy(types.ModuleType):
    """A module whose names are traps, and so is looking for one."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            SPRUNG.append(f"lookup of {name}")
        raise AttributeError(name)


def glob(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def call(name: str, *args: bytes) -> bytes:
    return glob(name) + b"(" + b"".join(args) + b"tR"


def mapping(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


REBUILD = "torch._tensor._rebuild_from_type_v2"
TENSOR_V2 = "torch._utils._rebuild_tensor_v2"
STORAGE = b"(" + text("storage") + glob("torch.FloatStorage") + text("0") + text("cpu") + b"K\x01tQ"
TENSOR = call(TENSOR_V2, STORAGE, b"K\x00", b"K\x01\x85", b"K\x01\x85", b"\x89", call("collections.OrderedDict"))

TOUCH = text("touch CANARY")
PROGRAMS = {
    **{
        f"reduce {name}": call(name, argument)
        for name, argument in {
            "os.system": TOUCH,
            "posix.system": TOUCH,
            "nt.system": TOUCH,
            "subprocess.Popen": b"]" + text("touch") + b"a" + text("CANARY") + b"a",
            "subprocess.check_output": TOUCH,
            "builtins.eval": text("open('CANARY', 'w')"),
            "builtins.exec": text("open('CANARY', 'w')"),
            "__builtin__.eval": text("open('CANARY', 'w')"),
            "builtins.compile": text("1"),
            "builtins.open": text("CANARY") + text("w"),
            "io.open": text("CANARY") + text("w"),
            "builtins.__import__": text("antigravity"),
            "importlib.import_module": text("antigravity"),
            "pathlib.Path.touch": text("CANARY"),
            "os.path.join": text("a"),
            "sys.exit": b"K\x01",
            "runpy.run_path": text("CANARY"),
            "torch.hub.load": text("x") + text("y"),
            "torch.load": text("CANARY"),
            "torch.jit.load": text("CANARY"),
            "torch.serialization.add_safe_globals": b"]",
            "torch.utils._config_module.load_config": text("x"),
            "torch._dynamo.guards.CheckFunctionManager": text("x"),
            "pickle.loads": b"U\x02N.",
            "_pickle.loads": b"U\x02N.",
            "numpy.load": text("CANARY"),
            "numpy.core.multiarray._reconstruct": glob("os.system") + b"K\x00\x85" + TOUCH,
            "functools.partial": glob("os.system") + TOUCH,
            "functools.reduce": glob("os.system") + b"]" + TOUCH + b"a",
            "operator.attrgetter": text("system"),
            "operator.methodcaller": text("system") + TOUCH,
            "types.FunctionType": b"",
            "types.CodeType": b"",
            "hostile_module_of_tests.trap": b"",
            "hostile_module_of_tests.Trap": b"",
            "hostile_module_of_tests.anything": b"",
            "never_imported_module.f": b"",
            "__main__.trap": b"",
            "ssltool.files.placeholders.Placeholder": b"K\x01",
            "ssltool.files.torch_files.load_dict": text("CANARY"),
        }.items()
    },
    "getattr of a module's function": call("builtins.getattr", glob("os.path") , text("os")),
    "getattr, called": call("builtins.getattr", glob("hostile_module_of_tests.Trap"), text("anything")) + b")R",
    "getattr of an object, called": call("builtins.getattr", call("collections.OrderedDict"), text("clear")) + b")R",
    "getattr by new": glob("builtins.getattr") + glob("hostile_module_of_tests.Trap") + text("x") + b"\x86\x81",
    "getattr of getattr": call("builtins.getattr", call("builtins.getattr", glob("a.b"), text("c")), text("__class__"))
    + b")\x81",
    "call of what was called": call("functools.partial", glob("os.system"), TOUCH) + b")R",
    "call of what attrgetter gives": call("operator.attrgetter", text("system")) + glob("posixpath.os") + b"\x85R",
    "call of text": b"X\x40\x42\x0f\x00" + b"x" * 1_000_000 + b")R",
    "new": glob("hostile_module_of_tests.Trap") + b")\x81",
    "new of a function": glob("hostile_module_of_tests.trap") + b")\x81",
    "state": glob("hostile_module_of_tests.Trap") + b")\x81" + mapping(x=b"K\x01") + b"b",
    "state of slots": glob("hostile_module_of_tests.Trap") + b")\x81N" + mapping(__class__=glob("a.b")) + b"\x86b",
    "state that names methods": glob("a.B") + b")\x81" + mapping(__setstate__=glob("os.path.x"), args=b"K\x01") + b"b",
    "state of a class": glob("a.B") + mapping(__new__=glob("os.path.x")) + b"b",
    "state of a function": glob(TENSOR_V2) + mapping(__code__=b"K\x01") + b"b",
    "slots of a function": glob(TENSOR_V2) + b"N" + mapping(__code__=b"K\x01", __defaults__=b"N") + b"\x86b",
    "state of a class of torch": glob("torch.Size") + mapping(__len__=b"K\x01") + b"b",
    "state of a tensor": TENSOR + mapping(detach=glob("a.b")) + b"b",
    "state of an OrderedDict": call("collections.OrderedDict") + mapping(items=glob("a.b"), keys=glob("a.b")) + b"b",
    "slots of a Counter": call("collections.Counter") + b"N" + mapping(items=glob("a.b"), values=b"N") + b"\x86b",
    "a class's own name as state": glob("a.B") + b")\x81" + mapping(name=text("x"), state=b"K\x01") + b"b" + b"K\x02b",
    "tensor of a class": call(REBUILD, glob(TENSOR_V2), glob("hostile_module_of_tests.Trap"), b")", b"}"),
    "tensor by a class": call(REBUILD, glob("hostile_module_of_tests.Trap"), glob("a.B"), b")", mapping(x=b"K\x01")),
    "tensor with attributes": call(
        REBUILD, glob(TENSOR_V2), glob("torch.Tensor"), b"(" + STORAGE + b"K\x00K\x01\x85K\x01\x85\x89N" + b"t",
        mapping(detach=glob("a.b"), shape=b"K\x01", __class__=glob("a.B"), numel=glob("a.b")),
    ),
    "attributes of a class that getattr gives": call(
        REBUILD, glob("builtins.getattr"), glob("builtins.type"), b"(" + glob("a.B") + text("c") + b"t",
        mapping(__new__=b"K\x01"),
    ),
    "tensor around a class": call(
        REBUILD, glob("torch._utils._rebuild_wrapper_subclass"), glob("a.B"),
        b"(" + glob("a.B") + glob("torch.float32") + b"K\x01\x85K\x01\x85K\x00"
        + call("torch.serialization._get_layout", text("torch.strided")) + text("cpu") + b"\x89t",
        mapping(_local_tensor=b"K\x01"),
    ),
    "dtype of a class": b"(" + text("storage") + glob("a.B") + text("0") + text("cpu") + b"K\x01tQ",
    "dtype of a tensor's class": b"(" + text("storage") + glob("torch.Tensor") + text("0") + text("cpu") + b"K\x01tQ",
    "persistent object": call("a.B", text("storage")) + b"Q",
    "persistent module": b"(" + text("module") + glob("a.B") + text("file.py") + text("source") + b"tQ",
    "persistent text": text("x") + b"Q",
    "persistent id of protocol 0": b"Px\n",
    "items of an object": glob("a.B") + b")\x81" + text("k") + b"K\x01s",
    "items of a class": glob("a.B") + text("k") + b"K\x01s",
    "appended to an object": glob("a.B") + b")\x81K\x01a",
    "appended to a class": glob("a.B") + b"K\x01a",
    "items and appended": glob("a.B") + b")\x81K\x01a" + text("k") + b"K\x01s",
    "an object as a key": b"}" + call("a.B") + b"K\x01s",
    "memo": glob("os.path.x") + b"q\x00" + b"h\x00)R" + b"q\x01h\x01" + b"K\x01b",
    "memo that is not there": b"h\x09",
    "memo that changes": glob("collections.OrderedDict") + b"q\x000" + glob("os.path.x") + b"q\x00h\x00)R",
    "an object that holds itself": glob("a.B") + b")\x81q\x05}" + text("self") + b"h\x05sb",
    "a nested pickle": b"U\x10cos\nsystem\n(NtR.",
    "inst": b"(" + TOUCH + b"ios\nsystem\n",
    "obj": b"(" + glob("hostile_module_of_tests.Trap") + b"o",
    "ext1": b"\x82\x01",
    "ext2": b"\x83\x01\x00",
    "ext4": b"\x84\x01\x00\x00\x00",
    "newobj_ex": glob("hostile_module_of_tests.Trap") + b")}\x92",
    "stack_global": text("os") + text("system") + b"\x93" + TOUCH + b"\x85R",
    "frame": b"\x95\x02\x00\x00\x00\x00\x00\x00\x00N.",
    "a name with spaces": b"cos system\nx y\n)R",
    "a name with a NUL": b"ca\0b\nc\0d\n)R",
    "a name of no letters": b"c\n\n)R",
    "a name in other letters": "cmödul\nKlässe\n".encode() + b")R",
    "a name that is no UTF-8": b"c\xff\n\xfe\n)R",
    "a name split elsewhere": b"ctorch\n_utils._rebuild_tensor_v2\n)R",
    "torch's own with a module's name": b"cos\nsystem.x\n)R",
}  # fmt: skip


def legacy(program: bytes) -> bytes:
    stream = io.BytesIO()
    torch.save({}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue().replace(b"\x80\x02}q\x00.", b"\x80\x02" + program + b".", 1)


def zipped(program: bytes) -> bytes:
    stream, target = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.ones(1)}, stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"\x80\x02" + program + b"." if name.endswith("data.pkl") else old.read(name))
    return target.getvalue()


def facts() -> dict[str, Any]:
    """What a file could change in the process."""
    functions = [torch._utils._rebuild_tensor_v2, torch._tensor._rebuild_from_type_v2, trap]
    return {
        "functions": [(f.__code__, f.__defaults__, dict(vars(f))) for f in functions],
        "classes": [dict(vars(cls)) for cls in (Placeholder, torch.Size, torch.nn.Parameter)],
        "allowed": set(torch.serialization.get_safe_globals()),
        "modules": "antigravity" in sys.modules or "never_imported_module" in sys.modules,
    }


def read(path: Path) -> bool:
    """Whether the file is read; if not, the error is one line."""
    message = ""
    try:
        contents = load_dict(path, mmap=True)
        extract_settings(contents)
        placeholder_names(contents)
        for value in contents.values():
            module_weights(value)
    except SSLToolError as error:
        message = str(error)
    assert not message or (path.name in message and "\n" not in message)
    return not message


def loads_without_a_trap(folder: Path, data: bytes) -> bool:
    path = folder / "x.pth"
    path.write_bytes(data)
    before = facts()
    SPRUNG.clear()
    WATCHING[0] = True
    try:
        done = read(path)
    finally:
        WATCHING[0] = False
    assert SPRUNG == []
    assert sorted(file.name for file in folder.iterdir()) == ["x.pth"]
    assert facts() == before
    return done


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "hostile_module_of_tests", Lazy("hostile_module_of_tests"))
    vars(sys.modules["hostile_module_of_tests"]).update(trap=trap, Trap=Trap)
    return tmp_path


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_in_a_file_is_executed(folder, name, write):
    held = b"}" + text("x") + PROGRAMS[name] + b"s"
    loads_without_a_trap(folder, write(held))
    loads_without_a_trap(folder, write(PROGRAMS[name]))


def test_the_traps_work(folder):
    """The same programs, by Python's own unpickler."""
    sprung = {}
    for name in ("reduce hostile_module_of_tests.trap", "new", "state", "obj", "reduce os.system", "inst"):
        SPRUNG.clear()
        WATCHING[0] = True
        try:
            pickle.loads(b"\x80\x02" + PROGRAMS[name].replace(b"touch CANARY", b"echo > seen!") + b".")
        except Exception:
            pass
        finally:
            WATCHING[0] = False
        sprung[name] = bool(SPRUNG)
    assert all(sprung.values()), sprung
    assert (folder / "seen!").exists()


def test_most_programs_without_a_refused_name_are_read(folder):
    names = [
        "reduce subprocess.Popen",
        "reduce builtins.eval",
        "reduce torch.hub.load",
        "new",
        "state",
        "state of slots",
    ]
    for name in names:
        assert loads_without_a_trap(folder, zipped(b"}" + text("x") + PROGRAMS[name] + b"s")), name


SLOW = text("".join(map(chr, range(0x4E00, 0x4E00 + 4000))) * 10)
"""Text that takes minutes in punycode."""


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize(
    "program",
    [
        call("_codecs.encode", SLOW, text("punycode")),
        call("_codecs.encode", SLOW + text("latin1"), text("punycode")),
        glob("_codecs.encode") + b"q\x00(" + text("x") + text("latin1") + b"tRh\x00(" + SLOW + text("punycode") + b"tR",
        call(REBUILD, glob("_codecs.encode"), glob("a.B"), b"(" + SLOW + text("punycode") + b"t", b"}"),
        call(REBUILD, glob("_codecs.encode"), glob("a.B"), b"](" + SLOW + text("punycode") + b"e", b"}"),
        call(REBUILD, glob(REBUILD), glob("a.B"), b"](" + glob("_codecs.encode") + glob("a.B") + b"]}e", b"}"),
    ],
)
def test_text_is_encoded_in_no_other_way_than_pickles_do(folder, program, write):
    assert not loads_without_a_trap(folder, write(b"}" + text("x") + program + b"s"))


def test_bytes_of_protocol_2_are_read(folder):
    torch.save({"x": b"\xff\x00", "y": [b"a", b"latin1", "latin1", b"a"]}, folder / "x.pth")
    assert load_dict(folder / "x.pth") == {"x": b"\xff\x00", "y": [b"a", b"latin1", "latin1", b"a"]}


NAMES = (
    *("hostile_module_of_tests.trap", "hostile_module_of_tests.Trap", "hostile_module_of_tests.x", "__main__.f"),
    *("builtins.getattr", "__builtin__.eval", "builtins.exec", "os.system", "os.path.join", "operator.itemgetter"),
    *("functools.partial", "collections.OrderedDict", "collections.Counter", "collections.defaultdict", "torch.Size"),
    *(REBUILD, TENSOR_V2, "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"),
    *("torch._utils._rebuild_wrapper_subclass", "torch._utils._rebuild_sparse_tensor", "torch.FloatStorage"),
    *("torch.nn.parameter.Parameter", "torch.device", "torch.float32", "_codecs.encode", "builtins.set", "a.B"),
)


def random_program(rng: random.Random) -> bytes:
    """Operations of torch's unpickler in any order, with enough values on the stack for each."""
    pushes = [b"N", b"\x88", b"]", b"}", b")", b"K\x01", b"K\x00", text("__class__"), text("items"), b"U\x01a", STORAGE]
    out, depth, marks = bytearray(b"}" + text("x")), 0, []  # type: ignore[var-annotated]
    for _ in range(rng.randrange(5, 60)):
        kind = rng.random()
        if depth >= 2 and kind < 0.4:
            out += rng.choice([b"R", b"R", b"\x81", b"b", b"a", b"\x86"])
            depth -= 1
        elif depth >= 3 and kind < 0.45:
            out += b"s"
            depth -= 2
        elif depth and kind < 0.55:
            out += rng.choice([b"\x85", b"Q", b"q\x00", b"q\x01"])
        elif marks and kind < 0.65:
            below, closing = marks.pop(), rng.choice([b"t", b"u", b"e"])
            if closing == b"u" and depth % 2:
                out += b"N"
            out += closing
            depth = below + (closing == b"t")
        elif kind < 0.72:
            out += b"("
            marks.append(depth)
            depth = 0
        else:
            name = rng.choice(NAMES)
            out += glob(name) if rng.random() < 0.6 else rng.choice(pushes)
            depth += 1
    while marks:
        out += b"t"
        depth = marks.pop() + 1
    return bytes(out) + b"(" * (not depth) + b"t" * (not depth) + b"\x86" * max(depth - 1, 0) + b"s"


@pytest.mark.parametrize("seed", range(8))
def test_random_programs_execute_nothing(folder, seed):
    rng = random.Random(seed)
    for number in range(50):
        program = random_program(rng)
        loads_without_a_trap(folder, zipped(program) if number % 5 else legacy(program))
