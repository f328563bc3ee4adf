"""No output replaces an input, a file that is read with it, or another output."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

from helpers import error_message, usage_message
from ssltool.errors import SSLToolError, UsageError
from ssltool.files.overwriting import names_beside, refuse_overwriting


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder that is worked in, with the files a.npy, a.json, a_targets.npy, b.pt and c.csv."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    np.save("a.npy", x)
    np.save("a_targets.npy", np.arange(40) % 2)
    (tmp_path / "a.json").write_text(json.dumps({"format": "ssltool/representations/1", "meta": {"layer": "backbone"}}))
    torch.save({"representations": torch.from_numpy(x)}, "b.pt")
    (tmp_path / "c.csv").write_text("run,accuracy\nr,0.5\n")
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


COMMANDS = {
    "knn --out over the metadata": ["knn", "a.npy", "a.npy", "--out", "a.json"],
    "knn --neighbours over the labels": ["knn", "a.npy", "a.npy", "--neighbours", "a_targets.npy"],
    "knn --neighbours over the bank": ["knn", "b.pt", "a.npy", "--neighbours", "./b.pt"],
    "collapse --out": ["collapse", "a.npy", "--out", "a.json"],
    "collapse --out of a pattern": ["collapse", "*.npy", "--out", "a.json"],
    "collapse --out over the reference": ["collapse", "b.pt", "--like", "a.npy", "--out", "a.json"],
    "outliers": ["outliers", "a.npy", "--out", "a.json"],
    "duplicates": ["duplicates", "a.npy", "--out", "a.json"],
    "rank --out over --accuracy": ["rank", "b.pt", "--accuracy", "c.csv", "--out", "c.csv"],
    "rank --out over --predict": ["rank", "b.pt", "--predict", "a.json", "--out", "a.json"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_commands_refuse_to_replace_what_they_read(ssltool, here, command):
    before = contents(here)
    flags = ["--device", "cpu"] if command[0] in ("knn", "collapse") else []
    message = error_message(ssltool(*command, *flags))
    assert "input" in message or "is read with" in message
    assert contents(here) == before


def test_a_spectrum_does_not_replace_rows_of_its_name(ssltool, here):
    os.rename("a.npy", "b_svd.pt")
    before = contents(here)
    message = error_message(ssltool("collapse", "b.pt", "--device", "cpu"))
    assert "b_svd.pt" in message and contents(here) == before
    os.remove("b_svd.pt")
    for _ in range(2):  # a spectrum is replaced
        assert ssltool("collapse", "b.pt", "--device", "cpu").code == 0
    assert (here / "b_svd.pt").exists()


def test_two_outputs_have_two_names(ssltool, here):
    message = usage_message(ssltool("knn", "a.npy", "a.npy", "--out", "n.json", "--neighbours", "./n.json"))
    assert "--neighbours" in message and "--out" in message
    assert not (here / "n.json").exists()


def test_links_lead_to_the_input(here):
    os.symlink("c.csv", "link.csv")
    with pytest.raises(SSLToolError, match=r"c\.csv"):
        refuse_overwriting({"--out": "c.csv"}, ["link.csv"])


def test_new_files_folders_and_devices_are_no_inputs(here):
    refuse_overwriting({"--out": "new.json", "--plot": "new.png"}, ["a.npy", "new.json", ".", "resnet18"])
    refuse_overwriting({"--out": os.devnull, "--plot": os.devnull}, [os.devnull])
    with pytest.raises(UsageError):
        refuse_overwriting({"--out": "new.json", "--plot": "new.json"}, [])


def test_only_arrays_have_files_beside_them():
    assert names_beside("a.pt") == []
    assert {"x/a.json", "x/a_targets.npy"} <= {*names_beside("x/a.npy")}
