"""Files of NumPy and parquet are inputs of every stage, with the results of a .pt file of the same rows."""

from __future__ import annotations

import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import error_message, same_bits
from ssltool.errors import SSLToolError
from ssltool.reprs import formats
from ssltool.reprs.readers import main_files, read_entries
from ssltool.reprs.representations import Representations

KINDS = ["npy", "parquet"]


def made(n: int = 12, *, split: str = "train", seed: int = 0, **meta: object) -> Representations:
    """Rows in three clouds, with everything that a file holds."""
    y = torch.arange(n) % 3
    rows = 5 * torch.eye(4)[y] + torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    meta = {"dataset": "folder", "split": split, "classes": ["ant", "bee", "cät"], "fingerprint": split} | meta
    paths, digests = [f"{'abc'[int(i)]}/{j} ü.png" for j, i in enumerate(y)], torch.arange(n) * 2**40 - 7
    return Representations(rows, y, torch.arange(n) * 7, meta, paths, digests)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["rows", "views", "places"])
def test_what_is_written_comes_back_bit_for_bit(tmp_path, kind, shape):
    reprs = made()
    if shape == "views":
        reprs.representations = torch.randn(12, 3, 4)
        reprs.meta["views"] = 3
    if shape == "places":
        reprs.meta["places"] = 2
        reprs.targets, reprs.index = (torch.arange(6).repeat_interleave(2) for _ in range(2))
        reprs.paths, reprs.digests = reprs.paths[:6], reprs.digests[:6]
    formats.write(reprs, tmp_path / f"r.{kind}", kind)
    reprs.save(tmp_path / "r.pt")
    ours, theirs = (Representations.stored(tmp_path / name) for name in ("r.pt", f"r.{kind}"))
    for name in ("representations", "targets", "index", "meta", "paths", "digests"):
        assert same_bits(getattr(ours, name), getattr(theirs, name)), name


@pytest.mark.parametrize("kind", KINDS)
def test_without_paths_there_are_none(tmp_path, kind):
    reprs = made()
    formats.write(reprs, tmp_path / f"r.{kind}", kind)
    reprs.paths = reprs.digests = None
    formats.write(reprs, tmp_path / f"r.{kind}", kind)
    found = Representations.load(tmp_path / f"r.{kind}")
    assert found.paths is found.digests is None


@pytest.mark.parametrize("kind", [*KINDS, "npz"])
def test_every_stage_reads_them_with_the_same_results(ssltool, tmp_path, kind):
    for split, n in (("train", 24), ("val", 12)):
        reprs = made(n, split=split, seed=n)
        reprs.save(tmp_path / f"{split}.pt")
        if kind == "npz":
            reprs.meta = {}
            columns = {"representations": reprs.representations.numpy(), "targets": reprs.targets.numpy()}
            np.savez(tmp_path / f"{split}.npz", **columns)
        else:
            formats.write(reprs, tmp_path / f"{split}.{kind}", kind)
    found = []
    for suffix in ("pt", kind):
        train, val = tmp_path / f"train.{suffix}", tmp_path / f"val.{suffix}"
        cpu = ["--device", "cpu", "--json"]
        knn = ssltool("knn", train, val, "-k", 3, "--per-class", *cpu).json
        out = tmp_path / f"out_{suffix}"
        probe = ssltool("lincls", "--reprs", train, val, "--solver", "lbfgs", "-o", out, *cpu).json
        collapse = ssltool("collapse", train, *cpu).json["files"][0]
        ranked = ssltool("rank", train, "--json").json["rows"][0]
        assert ssltool("plot", "spectrum", train, "-o", tmp_path / "s.svg").code == 0
        assert ssltool("inspect", train).code == 0
        found.append((knn["accuracies"], probe["acc1"], collapse["metrics"], ranked["auc"]))
    assert found[0] == found[1]
    assert (tmp_path / "train_svd.pt").exists() and not list(tmp_path.glob(f"*.{kind}_svd.pt"))


@pytest.mark.parametrize("kind", KINDS)
def test_patterns_and_the_files_of_ranks_leave_out_what_lies_beside(ssltool, tmp_path, kind):
    reprs = made(24)
    for rank in range(2):
        part = slice(12 * rank, 12 * rank + 12)
        one = Representations(
            reprs.representations[part], reprs.targets[part], reprs.index[part], reprs.meta | {"shard": [rank, 2]}
        )
        formats.write(one, tmp_path / f"t.rank{rank}of2.{kind}", kind)
    made(12, split="val").save(tmp_path / "val.pt")
    for name in (f"t.rank*.{kind}", f"t.{kind}"):
        document = ssltool("knn", tmp_path / name, tmp_path / "val.pt", "-k", 3, "--json", "--device", "cpu").json
        assert document["bank_size"] == 24
    assert main_files(["a.npy", "a_targets.npy", "b_index.npy"]) == ["a.npy", "b_index.npy"]


def test_the_array_beside_names_the_one_that_it_belongs_to(ssltool, tmp_path):
    formats.write(made(), tmp_path / "t.npy", "npy")
    assert "t.npy" in error_message(ssltool("collapse", tmp_path / "t_targets.npy"))


def test_a_bare_array_is_memory_mapped_and_unlabelled(tmp_path):
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    np.savez(tmp_path / "x.npz", features=rows, labels=np.array(["bee", "ant"] * 3))
    found = Representations.stored(tmp_path / "x.npy")
    assert np.array_equal(found.representations.numpy(), rows) and found.targets.tolist() == [-1] * 6
    zipped = Representations.stored(tmp_path / "x.npz")
    assert np.array_equal(zipped.representations.numpy(), rows)
    assert (zipped.targets.tolist(), zipped.classes) == ([1, 0] * 3, ["ant", "bee"])
    np.savez_compressed(tmp_path / "x.npz", x=rows, y=np.arange(6))
    assert Representations.stored(tmp_path / "x.npz").targets.tolist() == list(range(6))
    for dtype in (">f4", "<f8", np.float16):
        np.save(tmp_path / "x.npy", np.asfortranarray(rows.astype(dtype)))
        assert np.allclose(Representations.load(tmp_path / "x.npy").representations.numpy(), rows, atol=1e-2)


def test_keys_of_other_programs_are_read_and_named(ssltool, tmp_path):
    x, y = torch.randn(9, 4), torch.arange(9) % 3
    torch.save({"features": x, "labels": y}, tmp_path / "a.pt")
    torch.save({"embeddings": x, "y": y}, tmp_path / "b.pt")
    ran = ssltool("knn", tmp_path / "a.pt", tmp_path / "b.pt", "-k", 1, "--device", "cpu", "--json")
    assert ran.json["accuracy"] == 1.0 and "'features'" in ran.err and "'y'" in ran.err
    torch.save({"features": x, "embeddings": x}, tmp_path / "c.pt")
    assert "features and embeddings" in error_message(ssltool("collapse", tmp_path / "c.pt"))
    torch.save({"outputs": x}, tmp_path / "d.pt")
    assert "'outputs'" in error_message(ssltool("collapse", tmp_path / "d.pt"))


def test_parquet_of_pandas_is_read(tmp_path):
    rows = np.random.default_rng(0).normal(size=(5, 4))
    table = pd.DataFrame({"embedding_id": range(5), "features": list(rows), "label": ["b", "a", None, "b", "a"]})
    table.to_parquet(tmp_path / "t.parquet")
    found = Representations.load(tmp_path / "t.parquet")
    assert np.allclose(found.representations.numpy(), rows)
    assert (found.targets.tolist(), found.classes) == ([1, 0, -1, 1, 0], ["a", "b"])


def test_columns_of_parquet_that_are_not_read_may_have_empty_cells(tmp_path):
    pa = pytest.importorskip("pyarrow")
    rows = np.random.default_rng(0).normal(size=(3, 4))
    known = {
        "embeddings": pa.array(list(rows)),
        "age": pa.array([None, 1.5, 2.0]),
        "boxes": pa.array([[1], [1, 2], []]),
        "label": pa.array([2, None, 0], pa.uint16()),
    }
    pa.parquet.write_table(pa.table(known), tmp_path / "t.parquet")
    found = Representations.load(tmp_path / "t.parquet")
    assert np.allclose(found.representations.numpy(), rows) and found.targets.tolist() == [2, -1, 0]
    for changed in ({"embeddings": known["boxes"]}, {"embeddings": pa.array([[0.0], None, [1.0]])}):
        pa.parquet.write_table(pa.table(known | changed), tmp_path / "t.parquet")
        with pytest.raises(SSLToolError, match="column embeddings"):
            Representations.load(tmp_path / "t.parquet")


def damage(path, how: str) -> None:
    if how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "zeros":
        path.write_bytes(path.read_bytes()[:20] + bytes(path.stat().st_size - 20))
    elif how == "head":
        path.write_bytes(path.read_bytes()[:8])


@pytest.mark.parametrize("how", ["cut", "zeros", "head"])
@pytest.mark.parametrize("name", ["r.npy", "r.npz", "r.parquet", "r.pt"])
def test_damaged_files_are_one_line(ssltool, tmp_path, name, how):
    reprs = made(200)
    kind = name.split(".")[1]
    if kind == "npz":
        np.savez(tmp_path / name, representations=reprs.representations.numpy())
    else:
        formats.write(reprs, tmp_path / name, kind)
    damage(tmp_path / name, how)
    assert name in error_message(ssltool("collapse", tmp_path / name))


def test_pickled_objects_are_never_loaded(ssltool, tmp_path):
    objects = np.array([{"a": 1}], dtype=object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "x.npz", representations=objects, allow_pickle=True)
    formats.write(made(), tmp_path / "t.npy", "npy")
    np.save(tmp_path / "t_paths.npy", objects, allow_pickle=True)
    for name in ("x.npy", "x.npz", "t.npy"):
        assert "pickled" in error_message(ssltool("collapse", tmp_path / name))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 3), np.complex64),
        np.zeros((4, 3), np.int32),
        np.zeros(4, np.float32),
        np.zeros((4, 3), bool),
        np.zeros(4, [("a", "f4")]),
        np.array([["a", "b"]] * 4),
        np.zeros((4, 3), "M8[s]"),
        np.zeros((4, 3), np.longdouble),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_of_other_types_are_one_line(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(SSLToolError, match=r"x\.npy") as caught:
        Representations.load(tmp_path / "x.npy")
    assert "\n" not in str(caught.value)


def test_an_array_that_inflates_beyond_the_limit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLTOOL_SIZE_LIMIT", "1")
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("representations.npy", bytes(2**24))
    with pytest.raises(SSLToolError, match="--size-limit"):
        read_entries(tmp_path / "x.npz")
    table = pd.DataFrame({"representation": [[0.0] * 64] * 20_000})
    table.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(SSLToolError, match="--size-limit"):
        read_entries(tmp_path / "x.parquet")


def test_the_kind_of_an_archive_is_told_by_its_content_whatever_its_name(tmp_path):
    rows = torch.arange(6.0).view(3, 2)
    np.savez(tmp_path / "a.npz", representations=rows.numpy())
    torch.save({"representations": rows}, tmp_path / "b.pt")
    for source, name in (("a.npz", "a.pt"), ("a.npz", "a"), ("b.pt", "b.npz"), ("b.pt", "b")):
        (tmp_path / name).write_bytes((tmp_path / source).read_bytes())
        assert torch.equal(read_entries(tmp_path / name)["representations"], rows)
