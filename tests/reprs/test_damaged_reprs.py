"""Files of representations with another value in place of any entry: read as before, or one line, and never a hang."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssltool.errors import SSLToolError
from ssltool.reprs.representation_set import RepresentationSet
from ssltool.reprs.representations import Representations

KEYS = ("representations", "targets", "index", "paths", "digests", "row", "column", "kind", "meta", "format")
META = {
    "checkpoint_hash": "ab",
    "random": False,
    "epoch": 2,
    "image_size": 16,
    "dataset": "folder",
    "split": "train",
    "classes": ["ant", "bee"],
    "fingerprint": "00ff",
    "layer": "backbone",
    "places": None,
    "views": None,
    "shard": None,
    "config": {"lr": 0.1},
}


def good() -> dict:
    return {
        "format": Representations.FORMAT,
        "representations": torch.randn(8, 3),
        "targets": torch.arange(8) % 2,
        "index": torch.arange(8),
        "paths": [f"{i}.png" for i in range(8)],
        "digests": torch.arange(8),
        "meta": dict(META),
    }


def deep(levels: int) -> dict:
    value: dict = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will remove this type
        return torch.quantize_per_tensor(torch.zeros(8, 3), 0.1, 0, torch.quint8)


def opened(path: Path) -> RepresentationSet | str:
    """The rows of a file, or why they cannot be read."""
    try:
        return RepresentationSet.open(str(path))
    except SSLToolError as error:
        return str(error)


VALUES = [
    *(None, "x", "", [], {}, 3, -1, 0.5, True, float("nan"), 10**9, 10**30, [1, 2], ["a"], {"a": 1}, deep(300)),
    *([0, 10**9], [3, 2], [-1, 2], ["0", 1], [[0]] * 8, (1, 2)),
    torch.tensor(1.0),
    torch.zeros(0),
    torch.zeros(8, 2),
    torch.full((8,), -3),
    torch.full((8,), 2**62),
    torch.zeros(8, 3, dtype=torch.complex64),
    torch.zeros(8, 3).to_sparse(),
    torch.zeros(8, 3, device="meta"),
    torch.zeros(8, 3).to(torch.float8_e4m3fn),
    quantised(),
    torch.randn(8, 3, requires_grad=True),
    torch.zeros(8, 3, dtype=torch.int64),
    torch.zeros(1).expand(10**9, 3),
    torch.randn(8, 3, 2, 2),
]


@settings(max_examples=200)
@given(st.sampled_from([*KEYS, *(f"meta.{key}" for key in META), "other"]), st.sampled_from(range(len(VALUES))))
def test_any_value_in_place_of_any_entry_is_read_or_one_line(tmp_path_factory, key, number):
    contents = good()
    holder, name = (contents["meta"], key[5:]) if key.startswith("meta.") else (contents, key)
    holder[name] = VALUES[number]
    path = tmp_path_factory.mktemp("damaged") / "r.pt"
    torch.save(contents, path)
    start = time.perf_counter()
    found = opened(path)
    if isinstance(found, str):
        assert "\n" not in found and "r.pt" in found
    else:
        assert len(found) == len(found.targets) == len(found.index) == 8
        assert found.targets.dtype == found.index.dtype == torch.int64
        assert not found.rows.block(0, 8).requires_grad
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("key", ["targets", "index", "paths", "digests", "meta", "format"])
def test_every_entry_but_the_rows_may_be_missing(tmp_path, key):
    contents = good()
    del contents[key]
    torch.save(contents, tmp_path / "r.pt")
    assert len(Representations.load(tmp_path / "r.pt")) == 8
    del contents["representations"]
    torch.save(contents, tmp_path / "r.pt")
    with pytest.raises(SSLToolError, match=r"r\.pt holds no representations"):
        Representations.load(tmp_path / "r.pt")


def test_a_file_of_a_million_ranks_is_refused_at_once(tmp_path):
    torch.save(good() | {"meta": {"shard": [0, 2**31]}}, tmp_path / "r.pt")
    start = time.perf_counter()
    with pytest.raises(SSLToolError, match=r"rank 1, 2, .* more of 2147483648"):
        RepresentationSet.open(str(tmp_path / "r.pt"))
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("scale", [1e307, 1e39, 1e-60])
def test_rows_that_float32_cannot_hold_are_one_line_in_every_stage(ssltool, tmp_path, scale):
    contents = good() | {"representations": torch.randn(8, 3).double() * scale}
    torch.save(contents, tmp_path / "r.pt")
    for command in (
        ["knn", tmp_path / "r.pt", tmp_path / "r.pt"],
        ["collapse", tmp_path / "r.pt"],
        ["rank", tmp_path / "r.pt"],
    ):
        ran = ssltool(*command)
        assert ran.code == 1 and "float32" in ran.err and ran.err.count("\n") == 1
    torch.save(contents | {"representations": torch.randn(8, 3).double()}, tmp_path / "r.pt")
    assert ssltool("collapse", tmp_path / "r.pt").code == 0


def test_a_probe_of_values_that_overflow_leaves_no_run(ssltool, tmp_path):
    for name in ("a", "b"):
        torch.save(
            good() | {"representations": torch.linspace(-3, 3, 24).view(8, 3) * 1e38, "meta": {}},
            tmp_path / f"{name}.pt",
        )
    out = tmp_path / "run"
    ran = ssltool("lincls", "--reprs", tmp_path / "a.pt", tmp_path / "b.pt", "-o", out, "--device", "cpu")
    assert ran.code == 1 and "--standardise" in ran.err and not out.exists()
    for name in ("a", "b"):
        torch.save(good() | {"meta": {}}, tmp_path / f"{name}.pt")
    flags = ["--lr", "1e30", "--epochs", 3, "-o", out, "--device", "cpu"]
    ran = ssltool("lincls", "--reprs", tmp_path / "a.pt", tmp_path / "b.pt", *flags)
    assert (ran.code == 1) == (not (out / "config.json").exists())
