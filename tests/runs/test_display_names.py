"""Short names of files: what they are made of, and that no two paths share one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssltool.runs.display_names import display_names

part = st.sampled_from(["a", "b", "x", "x.pt", "a.pt", "a (2)", ".pt", "lr0.1"])
path = st.lists(part, min_size=1, max_size=4).map("/".join)
absolute = st.tuples(st.sampled_from(["", "/"]), path).map("".join)


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        (["a/train.pt"], ["train"]),
        (["a/train.pt", "b/train.pt"], ["a", "b"]),
        (["a/train.pt", "a/val.pt"], ["train", "val"]),
        (["runs/a/train.pt", "runs/b/val.pt"], ["a/train", "b/val"]),
        (["x/a/train.pt", "val.pt"], ["x/a/train", "val"]),
        (["/x/a/1/train.pt", "/x/b/1/train.pt", "/x/b/2/train.pt"], ["a/1", "b/1", "b/2"]),
        (["a/train.pt", "train.pt"], ["a", "train"]),
        (["lr0.1.pt", "lr0.5.pt"], ["lr0.1", "lr0.5"]),
        (["lr0.1", "lr0.5"], ["lr0.1", "lr0.5"]),
        ([], []),
    ],
)
def test_names_are_the_parts_of_the_paths_that_differ(paths, wanted):
    assert display_names(paths) == wanted


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        (["x/x.pt", "x.pt"], ["x/x", "x"]),
        (["x", "x.pt"], ["x", "x.pt"]),
        (["x/x.pt", "x.pt", "y.pt"], ["x/x", "x", "y"]),
    ],
)
def test_paths_whose_short_names_agree_get_longer_ones(paths, wanted):
    assert display_names(paths) == wanted


@pytest.mark.parametrize("paths", [["a/x.pt", "a/x.pt"], ["x", "./x"], ["x", "y", "x", "x (2)", "x"]])
def test_a_repeated_path_gets_a_distinct_name(paths):
    assert len(set(display_names(paths))) == len(paths)


@given(st.lists(absolute, unique=True, min_size=1, max_size=8))
def test_distinct_paths_have_distinct_names_that_are_parts_of_them(paths):
    names = display_names(paths)
    assert len(set(names)) == len(paths)
    for name, whole in zip(names, paths, strict=True):
        parts = iter([*Path(whole).parts[:-1], Path(whole).name])
        wanted = Path(name).parts
        assert wanted
        # In their order: each is the next part of the path that agrees, which may lack its .pt at the end.
        assert all(any(one in (other, other.removesuffix(".pt")) for other in parts) for one in wanted)


@given(st.lists(absolute, min_size=1, max_size=8))
def test_names_are_distinct_whatever_is_given(paths):
    assert len(set(display_names(paths))) == len(paths)


@given(absolute)
def test_one_path_has_the_name_of_its_file(whole):
    name = Path(whole).name
    assert display_names([whole]) == [name if name == ".pt" else name.removesuffix(".pt")]


@pytest.mark.parametrize("whole", [".", "..", "a/.."])
def test_a_folder_without_a_name_is_called_as_its_absolute_path(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert display_names([whole]) == [Path(os.path.abspath(whole)).name]
