"""Files that cannot be read: one line says why, nothing large is parsed, and nothing is executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ssltool.data.strategies import read_numbers
from ssltool.errors import SSLToolError, UsageError
from ssltool.files.npy_files import read_npy, read_npz
from ssltool.files.placeholders import ITEM_BYTES
from ssltool.files.reading import (
    UNKNOWN,
    decode,
    file_hash,
    kind_of_content,
    matching,
    open_file,
    read_json,
    require,
    size_limit,
)
from ssltool.files.torch_files import load_dict
from ssltool.reprs.readers import read_entries
from ssltool.settings import SIZE_LIMIT


@pytest.fixture
def good(tmp_path) -> Path:
    torch.save({"a": torch.arange(1000.0)}, tmp_path / "good.pt")
    return tmp_path / "good.pt"


def rewritten(source: Path, target: Path, change, compression: int = zipfile.ZIP_STORED) -> Path:
    """The zip archive ``source`` with each entry as ``change(name, data)`` returns it; None leaves it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return target


def pickled(source: Path, data: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    target = source.with_name("changed.pt")
    return rewritten(source, target, lambda name, old: data if name.endswith("data.pkl") else old, compression)


def refusal(path: Path, read=load_dict) -> str:
    start = time.perf_counter()
    with pytest.raises(SSLToolError) as caught:
        read(path)
    message = str(caught.value)
    assert time.perf_counter() - start < 10
    assert message.isprintable() and str(path) in message
    return message


def test_kinds_of_files_are_told_apart(tmp_path, good):
    jpeg, text = tmp_path / "a.jpg", tmp_path / "a.txt"
    jpeg.write_bytes(b"\xff\xd8\xff\xe0" + bytes(600))
    text.write_text("Käse\n" * 500, encoding="utf-8")
    np.save(tmp_path / "a.npy", np.ones(3))
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    (tmp_path / "empty.pt").touch()
    (tmp_path / "zeros.pt").write_bytes(bytes(5000))
    (tmp_path / "cut.pt").write_bytes(good.read_bytes()[:-100])
    found = {
        "a.jpg": "a JPEG image",
        "a.txt": "text",
        "a.npy": "a NumPy array",
        "a.npz": "NumPy .npz",
        "empty.pt": "is empty",
        "zeros.pt": "begins with zeros",
        "cut.pt": "cut short",
    }
    for name, words in found.items():
        assert words in refusal(tmp_path / name)
    assert "is a folder" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "none.pt")
    assert "no such file" in refusal(good / "below.pt")
    with pytest.raises(SSLToolError, match="name of a file is empty"):
        open_file("")
    os.mkfifo(tmp_path / "pipe.pt")
    assert "not a regular file" in refusal(tmp_path / "pipe.pt")


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.parquet", "a.pt", "a"])
@pytest.mark.parametrize(
    ("head", "kind"), [(b"\xff\xd8\xff\xe0", "JPEG"), (b"\x89HDF\r\n", "HDF5"), (b"a,b\n", "text")]
)
def test_a_file_of_another_kind_is_told_by_its_content_and_all_that_would_do_are_named(tmp_path, name, head, kind):
    (tmp_path / name).write_bytes(head)
    message = refusal(tmp_path / name, read_entries)
    assert kind in message and all(suffix in message.split(";")[1] for suffix in (".pt", ".npy", ".npz", ".parquet"))
    message = refusal(tmp_path / name, lambda path: read_numbers(str(path), 8, "--idx-path"))
    assert kind in message and message.count("numpy.save") == 1


@pytest.mark.parametrize("text", ["=> 训练图像\n", "Epoch: |█▌  |\b\b", "\x1b[32mepoch 0\x1b[0m: 损失\n", "a"])
def test_output_of_programs_in_any_language_is_text_wherever_its_head_ends(text):
    data = (text * 600).encode()
    for start in range(12):
        head = data[data.index(text[0].encode()) :]
        assert kind_of_content((b"x" * start + head)[:512]) == "text"
    assert kind_of_content(data[: len(data) // 600]) == "text"
    assert kind_of_content("训".encode()[:2]) == kind_of_content(b"\x00" * 512) == UNKNOWN


def test_a_file_without_permission_is_told_apart(good, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(SSLToolError, match=r"no permission to read .*good\.pt"):
        open_file(good)


@pytest.mark.parametrize("mmap", [False, True])
def test_compressed_and_legacy_files_are_read_as_before(good, mmap):
    torch.save({"a": torch.arange(1000.0)}, good.with_name("legacy.pt"), _use_new_zipfile_serialization=False)
    deflated = rewritten(good, good.with_name("deflated.pt"), lambda name, data: data, zipfile.ZIP_DEFLATED)
    for path in (good, deflated, good.with_name("legacy.pt")):
        assert torch.equal(load_dict(path, mmap=mmap)["a"], torch.arange(1000.0))


def test_objects_that_inflate_are_refused_at_once(good):
    start = time.perf_counter()
    bomb = pickled(good, b"\x80\x02]" + b"N" * 30_000_000 + b"}.", zipfile.ZIP_DEFLATED)
    written = time.perf_counter() - start
    start = time.perf_counter()
    assert "declares 30," in refusal(bomb)
    assert time.perf_counter() - start < max(1, written)


def test_the_limit_of_objects_can_be_raised(good, monkeypatch):
    many = good.with_name("many.pt")
    torch.save({"names": [f"{i:0200d}" for i in range(10_000)]}, many)
    monkeypatch.setenv(SIZE_LIMIT, "1")
    assert "--size-limit 3" in refusal(many)
    monkeypatch.setenv(SIZE_LIMIT, "3")
    assert len(load_dict(many)["names"]) == 10_000
    short = good.with_name("short.pt")
    torch.save({"numbers": [[] for _ in range(500_000)]}, short)  # few bytes, but many objects
    assert "--size-limit" in refusal(short)
    for value in ("0", "-1", "x", "1e3", "", "9" * 20):
        monkeypatch.setenv(SIZE_LIMIT, value)
        with pytest.raises(UsageError, match=SIZE_LIMIT):
            size_limit()


def test_the_paths_of_imagenet_are_within_the_limit():
    assert 1_281_167 * len("train/n01440764/n01440764_10026.JPEG" + "12345") < size_limit()


def test_size_limit_is_an_option_of_every_command_and_ends_with_it(ssltool, tmp_path):
    torch.save(
        {"representations": torch.rand(8, 3), "more": ["x" * 1000] * 2 + [f"{i:0900d}" for i in range(2000)]},
        tmp_path / "r.pt",
    )
    before = os.environ.get(SIZE_LIMIT)
    ran = ssltool("collapse", tmp_path / "r.pt", "--size-limit", 1)
    assert ran.code == 1 and "--size-limit 2" in ran.err
    assert ssltool("collapse", tmp_path / "r.pt", "--size-limit", 2, "--out", tmp_path).code == 0
    assert os.environ.get(SIZE_LIMIT) == before
    assert ssltool("collapse", tmp_path / "r.pt", "--size-limit", 0).code == 2


def test_entries_of_one_name_and_storages_larger_than_the_file_are_refused(good):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(good, "a") as archive:
            archive.writestr(archive.namelist()[0], b"again")
    assert "two entries of one name" in refusal(good)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("mmap", [True, False])
def test_a_storage_that_is_larger_than_the_file_is_refused(tmp_path, zipped, mmap):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.arange(1000.0)}, path, _use_new_zipfile_serialization=zipped)
    huge = b"J" + struct.pack("<i", 2_000_000_000)

    def grow(data: bytes) -> bytes:
        return data.replace(b"M\xe8\x03", huge)

    if zipped:
        path = rewritten(path, tmp_path / "b.pt", lambda name, data: grow(data) if name.endswith("data.pkl") else data)
    else:
        path.write_bytes(grow(path.read_bytes()))
    refusal(path, lambda file: load_dict(file, mmap=mmap))


def test_torch_has_no_storage_whose_size_is_not_known():
    """The names and the sizes by which storages are checked are those of all storages of torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kinds = [kind for name, kind in vars(torch).items() if name.endswith("Storage") and hasattr(kind, "dtype")]
        sizes = {kind.__name__.removesuffix("Storage"): kind.dtype.itemsize for kind in kinds}
    assert {name: ITEM_BYTES.get(name, 1) for name in sizes} == sizes and len(sizes) > 10


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32, torch.bool, torch.complex64])
@pytest.mark.parametrize("mmap", [True, False])
def test_a_storage_may_be_as_large_as_its_bytes_and_no_larger(tmp_path, dtype, mmap):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(1000).to(dtype), "view": torch.arange(60.0)[10:20], "none": torch.empty(0)}, path)
    assert load_dict(path, mmap=mmap)["a"].dtype == dtype

    def grow(name: str, data: bytes) -> bytes:
        return data.replace(b"M\xe8\x03", b"M\xe9\x03") if name.endswith("data.pkl") else data

    refusal(rewritten(path, tmp_path / "b.pt", grow), lambda file: load_dict(file, mmap=mmap))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_constructor_that_allocates_any_size_is_refused(good, zipped):
    body = b"\x80\x02}U\x01ac__builtin__\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85Rs."
    path = pickled(good, body)
    if not zipped:
        stream = io.BytesIO()
        torch.save({}, stream, _use_new_zipfile_serialization=False)
        legacy = stream.getvalue()
        path.write_bytes(legacy.replace(b"\x80\x02}q\x00.", body, 1))
    assert "bytearray" in refusal(path)


def test_files_whose_names_the_locale_cannot_spell_are_read(tmp_path):
    folder = tmp_path / "läuf"
    folder.mkdir()
    torch.save({"representations": torch.rand(8, 3)}, folder / "r.pt")
    (folder / "c.json").write_text('{"ä": 1}', encoding="utf-8")
    program = """
import sys
from ssltool.files.torch_files import load_dict
from ssltool.files.reading import read_json
for mmap in (False, True):
    assert load_dict(sys.argv[1] + "/r.pt", mmap=mmap)["representations"].shape == (8, 3)
assert list(read_json(sys.argv[1] + "/c.json")) == ["\\xe4"]
"""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": os.getcwd()}
    ran = subprocess.run(
        [sys.executable, "-c", program, folder], env={**os.environ, **ascii_only}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"{", "JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 10_000, "JSON"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": 1}\0\0', "JSON"),
    ],
)
def test_broken_json_is_one_line(tmp_path, data, words):
    (tmp_path / "a.json").write_bytes(data)
    assert words in refusal(tmp_path / "a.json", read_json)


def test_a_byte_order_mark_is_no_error(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": "ä"}), encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"a": "ä"}
    assert decode(b"\xef\xbb\xbfa", "a") == "a"


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin-1")


@pytest.mark.parametrize(
    "data",
    [
        header("{'descr': '<i8', 'fortran_order': False, 'shape': (4000000000,)}\n") + bytes(64),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n") + bytes(64),
        header("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}\n") + bytes(64),
        header("{'descr': '<i8', 'fortran_order': False, 'shape': (0, 10" + "0" * 30 + ")}\n"),
        header("{'descr': '<i8', " + " " * 20_000 + "'fortran_order': False, 'shape': (1,)}\n") + bytes(64),
        header("((((" * 2000),
        b"\x93NUMPY\x09\x00",
        b"\x93NUM",
        b"",
    ],
    ids=["huge", "objects", "negative", "huge and empty", "long header", "nested header", "version", "cut", "empty"],
)
def test_a_damaged_npy_file_is_one_line(tmp_path, data):
    (tmp_path / "a.npy").write_bytes(data)
    for mmap in (False, True):
        refusal(tmp_path / "a.npy", lambda path, mmap=mmap: read_npy(path, mmap=mmap))


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(
    "array", [np.arange(6).reshape(2, 3), np.ones((2, 3), order="F"), np.zeros(0), np.array(["a", "ä"])]
)
def test_npy_files_come_back_as_they_were_saved(tmp_path, array, mmap):
    np.save(tmp_path / "a.npy", array)
    assert np.array_equal(read_npy(tmp_path / "a.npy", mmap=mmap), array)


@pytest.mark.parametrize("mmap", [False, True])
def test_text_in_an_array_that_is_no_unicode_is_refused(tmp_path, mmap):
    np.save(tmp_path / "a.npy", np.array(["ab", "c"]))
    data = bytearray((tmp_path / "a.npy").read_bytes())
    data[-5] = 0x7F  # the upper byte of a code point
    (tmp_path / "a.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", bytes(data))
    refusal(tmp_path / "a.npy", lambda path: read_npy(path, mmap=mmap))
    refusal(tmp_path / "b.npz", lambda path: read_npz(path, mmap=mmap))


def test_a_plain_pickle_is_told_apart_from_a_file_that_is_cut_short(tmp_path):
    path = tmp_path / "x.pt"
    for protocol in range(2, 6):
        path.write_bytes(pickle.dumps({"representations": [[1.0]]}, protocol))
        with pytest.raises(SSLToolError, match="a pickle that torch"):
            load_dict(path)
    torch.save({"a": 1}, path, _use_new_zipfile_serialization=False)
    assert load_dict(path) == {"a": 1}


@pytest.mark.parametrize(
    ("held", "words"),
    [(np.ones(3), "arrays of NumPy"), (torch.ones(3), "tensors"), ({"x": "haiku._src.data_structures"}, "Haiku")],
)
def test_a_plain_pickle_is_told_by_what_it_holds(tmp_path, held, words):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": held}))
    assert words in refusal(tmp_path / "x.pkl")


def test_paths_that_cannot_be_opened_are_told_apart(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    found = {tmp_path / "a": "Too many levels", tmp_path / ("x" * 300): "too long", tmp_path / "c": "no such file"}
    for path, reason in found.items():
        for read in (open_file, require, file_hash, lambda path: open_file(matching(path))):
            with pytest.raises(SSLToolError, match=reason):
                read(path)


def test_a_file_in_a_closed_folder_is_a_lack_of_permission_and_not_missing(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "a.pt").write_bytes(b"x")
    folder.chmod(0)
    child = os.fork()
    if not child:  # without the rights of root, which may read everything
        if os.geteuid() == 0:
            os.setuid(65534)
        told = 0
        for read in (open_file, require, file_hash, lambda path: open_file(matching(path))):
            try:
                read(folder / "a.pt")
            except SSLToolError as error:
                told += "no permission" in str(error)
        os._exit(told)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    folder.chmod(0o700)
