"""Changes of files: by structure, which each format has its own function for, or in their bytes.

A function gets the path of a good file, which it overwrites, and a random generator; it returns what it did.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import numpy as np
import torch

from fuzz.changes import change
from fuzz.values import EXECUTED, HOSTILE, PLAIN, TENSORS, Executed
from ssltool.files.integrity import LABEL, LENGTH

Damage = Callable[[Path, Random], str]


@contextmanager
def deep() -> Iterator[None]:
    """Deeply nested values can be written in a ``with`` block."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def torch_file(path: Path, rng: Random) -> str:
    """A .pt file: its dict is changed at any depth; rarely the archive around it."""
    if rng.random() < 0.01:
        return _inflate(path)
    contents = torch.load(path, weights_only=True)
    root = [contents]
    did = change(root, rng, PLAIN | TENSORS, recursive=True)
    with deep():
        torch.save(root[0], path)
    return did


def _inflate(path: Path) -> str:
    """The pickle in the archive becomes 200 MB of compressed padding."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data[:2] + b"N0" * 10**8 + data[2:] if name.endswith("data.pkl") else data)
    return "its pickle inflates to 200 MB"


def safetensors_file(path: Path, rng: Random) -> str:
    """The header, JSON, of a .safetensors file."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    root = [json.loads(data[8 : 8 + length])]
    did = change(root, rng, PLAIN, recursive=False)
    with deep():
        header = json.dumps(root[0]).encode()
    claimed = rng.choice([len(header)] * 6 + [2**63, len(header) - 1, 0])
    path.write_bytes(struct.pack("<Q", claimed) + header + data[8 + length :])
    return f"{did}; a header of {claimed} bytes"


def json_file(path: Path, rng: Random) -> str:
    """A .json document: its values, or its text."""
    if rng.random() < 0.2:
        return text_file(path, rng)
    root = [json.loads(path.read_text())]
    did = change(root, rng, PLAIN, recursive=False)
    with deep():
        path.write_text(json.dumps(root[0]))
    return did


def lines_file(path: Path, rng: Random) -> str:
    """A .jsonl file: the values of a record, its lines, or its text."""
    lines = path.read_text().splitlines()
    kind = rng.choice(["values"] * 6 + ["torn", "torn at a brace", "twice", "missing", "order", "blank", "text"])
    at = rng.randrange(len(lines))
    if kind == "text":
        return text_file(path, rng)
    if kind == "values":
        root = [json.loads(lines[at])]
        did = change(root, rng, PLAIN, recursive=False)
        with deep():
            lines[at] = json.dumps(root[0])
    else:
        did = kind
        if kind == "torn":
            lines[-1] = lines[-1][: rng.randrange(1, len(lines[-1]))]
        elif kind == "torn at a brace":
            lines[-1] = lines[-1][:-1].rsplit(",", 1)[0] + ', "x": {"y": 1}'
        elif kind == "twice":
            lines.insert(at, lines[at])
        elif kind == "missing":
            del lines[at]
        elif kind == "order":
            lines.reverse()
        else:
            lines.insert(at, rng.choice(["", "   ", "null", "[]", "1", '"x"']))
    path.write_text("\n".join(lines) + rng.choice(["\n"] * 4 + ["", "\n\n"]))
    return f"line {at + 1}: {did}"


def text_file(path: Path, rng: Random) -> str:
    """The text of a file: its encoding, its ends, what JSON does not know."""
    text = path.read_text()
    middle = rng.randrange(len(text))
    name, data = rng.choice(
        [
            ("a byte order mark", b"\xef\xbb\xbf" + text.encode()),
            ("UTF-16", text.encode("utf-16")),
            ("UTF-32", text.encode("utf-32")),
            ("NULs at the end", text.encode() + b"\0" * 512),
            ("NULs in the middle", text[:middle].encode() + b"\0" * 64 + text[middle:].encode()),
            ("no UTF-8", text.encode() + b"\xff\xfe\n"),
            ("cut", text[:middle].encode()),
            ("deep lists", b"[" * 200_000),
            ("deep lists, closed", b"[" * 200_000 + b"]" * 200_000),
            ("deep dicts", b'{"a":' * 200_000),
            ("NaN", text.replace(": 0", ": NaN").replace(": 1", ": Infinity").encode()),
            ("long numbers", text.replace(": 1", ": 1" + "0" * 5000).encode()),
            ("keys twice", text.replace("{", '{"epoch": "x", "seed": [], ', 1).encode()),
            ("CRLF", text.replace("\n", "\r\n").encode()),
            ("hostile text", (text + HOSTILE).encode()),
            ("spaces", b" \n\t "),
        ]
    )
    path.write_bytes(data)
    return name


def csv_file(path: Path, rng: Random) -> str:
    """A table: its columns, its cells, its text."""
    if rng.random() < 0.4:
        return text_file(path, rng)
    rows = [line.split(",") for line in path.read_text().splitlines()]
    row, column = rng.randrange(len(rows)), rng.randrange(2)
    new = rng.choice(["", "NaN", "inf", "-1", "1e400", "x", '"', "'", "0,5", HOSTILE.replace("\n", " "), "run", "=1+1"])
    rows[row][column] = new
    path.write_text("\n".join(",".join(cells) for cells in rows) + "\n")
    return f"row {row}, column {column}: {new!r}"


def parquet_file(path: Path, rng: Random) -> str:
    """A parquet table: its columns and the meta in its schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    name = rng.choice(table.column_names)
    kind = rng.choice(["missing", "texts", "nulls", "renamed", "twice", "meta", "no rows"])
    at = table.column_names.index(name)
    if kind == "missing":
        table = table.remove_column(at)
    elif kind == "texts":
        table = table.set_column(at, name, pa.array(["x"] * len(table)))
    elif kind == "nulls":
        table = table.set_column(at, name, pa.nulls(len(table)))
    elif kind == "renamed":
        table = table.rename_columns([HOSTILE if one == name else one for one in table.column_names])
    elif kind == "twice":
        table = table.append_column(name, table.column(at))
    elif kind == "no rows":
        table = table[:0]
    else:
        found = {key: value for key, value in (table.schema.metadata or {}).items()}
        root = [json.loads(found.get(b"ssltool", b"{}"))]
        kind = change(root, rng, PLAIN, recursive=False)
        with deep():
            table = table.replace_schema_metadata({**found, b"ssltool": json.dumps(root[0]).encode()})
    pq.write_table(table, path)
    return f"{name} {kind}"


def cifar_file(path: Path, rng: Random) -> str:
    """A pickle of CIFAR: its dict is changed, and arrays become lists, wrong arrays or objects that execute."""
    contents = pickle.loads(path.read_bytes())
    arrays = {
        "an object that executes": lambda old: Executed(),
        "another object that executes": lambda old: Executed(os.system, f"touch {EXECUTED}"),
        "10^6 labels": lambda old: [1] * 10**6,
        "labels of 10^9": lambda old: [10**9] * 6,
        "an array of objects": lambda old: np.array([None, {}], object),
        "a float array": lambda old: np.ones((6, 3072)),
        "a short array": lambda old: np.ones((6, 3071), np.uint8),
        "no images": lambda old: np.ones((0, 3072), np.uint8),
        "bytes": lambda old: b"bytes",
    }
    root = [contents]
    did = change(root, rng, PLAIN | arrays | arrays, recursive=True)
    with deep():
        path.write_bytes(pickle.dumps(root[0], rng.choice([2, 4])))
    return did


def idx_file(path: Path, rng: Random) -> str:
    """The header of an IDX file: its magic number, its rank and its sizes."""
    data = bytearray(path.read_bytes())
    kind = rng.choice(["type", "rank", "size", "gzip", "bomb"])
    if kind == "type":
        data[2] = rng.randrange(256)
    elif kind == "rank":
        data[3] = rng.choice([0, 1, 2, 4, 5, 33, 255])
    elif kind == "size":
        at = 4 + 4 * rng.randrange(data[3])
        data[at : at + 4] = struct.pack(">I", rng.choice([0, 1, 7, 10**6, 2**31, 2**32 - 1]))
    else:
        compressed = zlib.compressobj(9, wbits=31)
        zeros = compressed.compress(bytes(10**6)) + b"".join(compressed.compress(bytes(10**6)) for _ in range(600))
        whole = zeros + compressed.flush() if kind == "bomb" else zlib.compress(bytes(data[: len(data) // 2]), wbits=31)
        path.unlink()
        path.with_name(f"{path.name}.gz").write_bytes(whole)
        return f"{kind} as .gz"
    path.write_bytes(data)
    return kind


def stl_file(path: Path, rng: Random) -> str:
    """The length and the labels of a file of STL-10."""
    data = path.read_bytes()
    count = rng.choice([0, 1, 27648, len(data) - 1, len(data) // 2, len(data) + 1])
    fill = bytes([rng.randrange(256)])
    path.write_bytes((data + fill)[:count] if rng.random() < 0.7 else fill * len(data))
    return f"{count} bytes, {fill!r}"


def partial_file(path: Path, rng: Random) -> str:
    """The first line of an unfinished output, which is JSON, or the length of its rows."""
    line, _, rows = path.read_bytes().partition(b"\n")
    if rng.random() < 0.4:
        rows = rows[: rng.randrange(len(rows))] * rng.choice([1, 3])
        path.write_bytes(line + b"\n" + rows)
        return f"{len(rows)} bytes of rows"
    root = [json.loads(line)]
    did = change(root, rng, PLAIN, recursive=False)
    with deep():
        path.write_bytes(json.dumps(root[0]).encode() + b"\n" + rows)
    return did


def in_bytes(path: Path, rng: Random) -> str:
    """Any file as bytes: flipped, cut, inserted, zeroed, spliced, or replaced by another good file or a pickle."""
    data = bytearray(path.read_bytes())
    if rng.random() < 0.5:  # else every reader stops at the hash
        data = data[: -LENGTH - 2] + b"\0\0" if LABEL in data[-LENGTH:] else data
    at = rng.randrange(max(1, len(data)))
    length = rng.choice([1, 4, 64, 4096])
    others = sorted(one for one in path.parent.iterdir() if one.is_file() and one != path)
    kind = rng.choice(["flip", "cut", "insert", "zero", "splice", "another file", "a pickle that executes", "empty"])
    if kind == "flip":
        for _ in range(rng.choice([1, 1, 8, 100])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "insert":
        data[at:at] = rng.randbytes(length)
    elif kind == "zero":
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == "splice" and others:
        data[at:] = rng.choice(others).read_bytes()[at:]
    elif kind == "another file" and others:
        data = bytearray(rng.choice(others).read_bytes())
    elif kind == "a pickle that executes":
        data = bytearray(pickle.dumps(Executed(os.system, f"touch {EXECUTED}"), rng.choice([0, 2, 4])))
    else:
        data.clear()
    path.write_bytes(data)
    return f"{kind} at {at}"
