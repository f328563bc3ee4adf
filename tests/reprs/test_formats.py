"""Files for other programs: read back by those programs' own readers, they hold the same rows."""

from __future__ import annotations

import builtins
import json
import os

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from ssltool.config import SaveReprsConfig
from ssltool.errors import SSLToolError, UsageError
from ssltool.reprs import formats
from ssltool.reprs.representations import Representations

META = {"layer": "backbone", "split": "val", "places": None}


def made(*shape: int, places: int | None = None) -> Representations:
    """Rows of numbers that differ, with labels of which some are unknown."""
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    n = len(rows) // (places or 1)
    targets, index = torch.arange(n) % 3 - 1, torch.arange(n) * 7 + 5
    columns = (column.repeat_interleave(places or 1) for column in (targets, index))
    return Representations(rows, *columns, META | {"places": places})


@pytest.mark.parametrize("name", ["train.npy", "train.rank0of2.npy"])
@pytest.mark.parametrize("shape", [(11, 4), (11, 3, 4)])
def test_numpy_reads_the_arrays(tmp_path, name, shape):
    reprs = made(*shape)
    formats.write(reprs, tmp_path / name, "npy")
    prefix = name.removesuffix(".npy")
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {f"{prefix}{end}" for end in (".npy", "_targets.npy", "_index.npy", ".json")}
    rows, targets, index = (np.load(tmp_path / f"{prefix}{end}.npy") for end in ("", "_targets", "_index"))
    assert rows.dtype == np.float32
    assert np.array_equal(rows, reprs.representations.numpy())
    assert np.array_equal(targets, reprs.targets.numpy())
    assert np.array_equal(index, reprs.index.numpy())
    document = json.loads((tmp_path / f"{prefix}.json").read_text())
    assert document == {"format": Representations.FORMAT, "meta": reprs.meta}


@pytest.mark.parametrize("group_bytes", [1, 100, 2**20])
def test_pandas_reads_a_row_an_image(tmp_path, monkeypatch, group_bytes):
    monkeypatch.setattr(formats, "GROUP_BYTES", group_bytes)
    reprs = made(11, 4)
    formats.write(reprs, tmp_path / "r.parquet", "parquet")
    table = pd.read_parquet(tmp_path / "r.parquet")
    assert list(table.columns) == ["index", "target", "representation"]
    assert np.array_equal(np.stack(table["representation"].to_list()), reprs.representations.numpy())
    assert table["target"].tolist() == reprs.targets.tolist()
    assert table["index"].tolist() == reprs.index.tolist()


def test_the_rows_of_parquet_are_lists_of_one_length_in_groups_that_memory_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "GROUP_BYTES", 3 * 4 * 4)
    formats.write(made(11, 4), tmp_path / "r.parquet", "parquet")
    file = pq.ParquetFile(tmp_path / "r.parquet")
    assert str(file.schema_arrow.field("representation").type).startswith("fixed_size_list<element: float")
    assert file.schema_arrow.field("representation").type.list_size == 4
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [3, 3, 3, 2]
    said = json.loads(file.schema_arrow.metadata[b"ssltool"])
    assert said == {"format": Representations.FORMAT, "meta": META}


@pytest.mark.parametrize("group_bytes", [40, 2**20])
@pytest.mark.parametrize(("reprs", "column"), [(made(5, 3, 4), "view"), (made(15, 4, places=3), "place")])
def test_several_rows_of_an_image_are_numbered(tmp_path, monkeypatch, group_bytes, reprs, column):
    monkeypatch.setattr(formats, "GROUP_BYTES", group_bytes)
    formats.write(reprs, tmp_path / "r.parquet", "parquet")
    table = pd.read_parquet(tmp_path / "r.parquet")
    assert list(table.columns) == ["index", "target", column, "representation"]
    assert len(table) == 15
    for number, (index, group) in enumerate(table.groupby("index", sort=False)):
        assert index == number * 7 + 5
        assert group["target"].tolist() == [number % 3 - 1] * 3
        assert group[column].tolist() == [0, 1, 2]
        wanted = reprs.representations.reshape(5, 3, 4)[number].numpy()
        assert np.array_equal(np.stack(group["representation"].to_list()), wanted)


def test_a_pt_file_can_be_loaded_again(tmp_path):
    reprs = made(11, 4)
    formats.write(reprs, tmp_path / "r.pt", "pt")
    assert torch.equal(Representations.load(tmp_path / "r.pt").representations, reprs.representations)


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_bfloat16_is_refused_in_formats_without_it(kind):
    with pytest.raises(UsageError, match=f"--format {kind} .*--dtype bf16"):
        SaveReprsConfig(format=kind, dtype="bf16").check()
    SaveReprsConfig(format=kind).check()
    SaveReprsConfig(dtype="bf16").check()


def test_parquet_without_pyarrow_names_the_extra_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SSLToolError, match=r"pip install 'ssltool\[parquet\]'"):
        formats.check("parquet")
    formats.check("npy")


def test_the_small_arrays_are_renamed_after_the_rows_are_written(tmp_path, monkeypatch):
    """A write that fails leaves all four files of the run before."""
    formats.write(made(11, 4), tmp_path / "r.npy", "npy")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real = np.save

    def full(stream, arr):
        if arr.ndim > 1:
            raise OSError(28, os.strerror(28))
        real(stream, arr)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(SSLToolError, match="No space left on device"):
        formats.write(made(9, 5), tmp_path / "r.npy", "npy")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
