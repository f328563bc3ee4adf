"""The hash in a file: any change of its bytes is found, and files without one are read as before."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.load import load_pretrained
from ssltool.config import InspectConfig, LinclsConfig
from ssltool.errors import SSLToolError
from ssltool.files import integrity
from ssltool.files.integrity import DamagedFile, check_file
from ssltool.stages.inspect import verify


@pytest.fixture
def saved(trained, tmp_path) -> Path:
    path = tmp_path / "c.pt"
    Checkpoint.load(trained / "checkpoint.pt").save(path)
    return path


def without_hash(path: Path) -> Path:
    """The same checkpoint as an earlier version wrote it."""
    earlier = path.with_name("earlier.pt")
    torch.save(torch.load(path, weights_only=True), earlier)
    return earlier


def state(path: Path) -> str:
    (about,) = verify(InspectConfig((str(path),)))
    return about["state"]


def test_the_hash_is_that_of_the_archive_which_torch_writes_without_it(saved):
    plain = io.BytesIO()
    torch.save(torch.load(saved, weights_only=True), plain)
    with zipfile.ZipFile(saved) as archive:
        label, name, digest = archive.comment.decode().split()
    assert (label, name, digest) == ("ssltool", "sha256", hashlib.sha256(plain.getvalue()).hexdigest())
    assert check_file(saved) and state(saved) == "ok"


def test_a_changed_bit_anywhere_is_found(saved):
    whole, rng = saved.read_bytes(), Random(0)
    hash_at = len(whole) - integrity.LENGTH
    for at in (*(rng.randrange(len(whole)) for _ in range(40)), 0, hash_at - 1, hash_at, len(whole) - 1):
        changed = bytearray(whole)
        changed[at] ^= 1 << rng.randrange(8)
        saved.write_bytes(changed)
        with pytest.raises(SSLToolError, match=r"c\.pt "):
            Checkpoint.load(saved)
        assert state(saved) == "damaged"


@pytest.mark.parametrize("size", [1, 4096])
def test_zeros_in_place_of_data_are_found(saved, size):
    whole, rng = saved.read_bytes(), Random(1)
    for start in (*(rng.randrange(len(whole) // size) * size for _ in range(10)), (len(whole) - 1) // size * size):
        length = len(whole[start : start + size])
        changed = whole[:start] + bytes(length) + whole[start + length :]
        saved.write_bytes(changed)
        if changed != whole:
            with pytest.raises(DamagedFile):
                Checkpoint.load(saved)


def test_a_file_that_is_cut_short_is_damaged_wherever_it_ends(saved):
    whole, rng = saved.read_bytes(), Random(2)
    for kept in (0, 2, *(rng.randrange(len(whole)) for _ in range(10)), *range(len(whole) - 110, len(whole))):
        saved.write_bytes(whole[:kept])
        with pytest.raises(DamagedFile):
            Checkpoint.load(saved)


def test_a_network_is_not_read_from_a_damaged_checkpoint(saved):
    changed = bytearray(saved.read_bytes())
    changed[len(changed) // 2] ^= 1
    saved.write_bytes(changed)
    torch.load(saved, weights_only=True)  # torch does not notice
    with pytest.raises(DamagedFile):
        load_pretrained(LinclsConfig(pretrained=str(saved)), torch.device("cpu"))


def test_a_file_of_an_earlier_version_is_read_and_has_no_hash(saved):
    earlier = without_hash(saved)
    assert Checkpoint.load(earlier).step == Checkpoint.load(saved).step
    assert state(earlier) == "no hash" and not check_file(earlier)


def test_damaged_tensors_in_a_file_without_a_hash_are_found_by_their_checksum(saved):
    earlier = without_hash(saved)
    with zipfile.ZipFile(earlier) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    changed = bytearray(earlier.read_bytes())
    changed[largest.header_offset + largest.file_size] ^= 1
    earlier.write_bytes(changed)
    assert state(earlier) == "damaged"


def test_a_file_that_reads_back_otherwise_does_not_replace_the_good_one(saved, monkeypatch):
    before, good = saved.read_bytes(), Checkpoint.load(saved)
    write = integrity.HashingWriter.write

    def losing(self: Any, data: Any) -> int:
        """A disk that loses a long write."""
        if len(data) < 1000:
            return write(self, data)
        self._digest.update(data)
        return self.stream.write(bytes(len(data)))

    monkeypatch.setattr(integrity.HashingWriter, "write", losing)
    with pytest.raises(SSLToolError, match="existing file is kept"):
        good.save(saved)
    assert saved.read_bytes() == before and [path.name for path in saved.parent.iterdir()] == ["c.pt"]


def test_verify_prints_the_state_of_each_file_and_fails_if_one_is_damaged(ssltool, saved, tmp_path):
    without_hash(saved)
    ran = ssltool("inspect", "--verify", tmp_path, "--json")
    assert ran.code == 0
    assert {Path(one["path"]).name: one["state"] for one in ran.json["files"]} == {
        "c.pt": "ok",
        "earlier.pt": "no hash",
    }
    saved.write_bytes(saved.read_bytes()[:-1])
    (tmp_path / "a.npy").write_bytes(b"")
    ran = ssltool("inspect", "--verify", tmp_path, tmp_path / "a.npy", "--json")
    assert ran.code == 1 and ran.err.count("\n") == 1 and "2 of 3" in ran.err
    states = {Path(one["path"]).name: one["state"] for one in ran.json["files"]}
    assert states == {"c.pt": "damaged", "earlier.pt": "no hash", "a.npy": "damaged"}
