"""Names of classes, runs, files and settings pass through the commands: one line each, and files that can be parsed."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from helpers import TINY, Ran
from ssltool import cli
from ssltool.cli.output import cell
from ssltool.files.text import visible
from ssltool.training.progress import info

NAME = "=x\n\x1b[31m\u202e\u2028<b>&\"'$y$\x9b"
"""A name that a file system takes."""

arguments = st.text(st.characters(exclude_characters="\0", exclude_categories=()), min_size=1, max_size=40)


def run(*args: str) -> Ran:
    """As the fixture ``ssltool``, which may not be used for several examples."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with mock.patch.object(sys, "argv", ["ssltool", *args]), contextlib.redirect_stdout(out):
        with contextlib.redirect_stderr(err):
            try:
                cli.main()
            except SystemExit as stop:
                code = int(stop.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())


@given(arguments, arguments)
@example(NAME, NAME)
def test_an_error_that_quotes_an_argument_is_one_line(first, second):
    for args in (["knn", f"./{first}", f"./{second}"], ["rank", f"./{first}"], ["inspect", f"./{first}"]):
        ran = run(*args)
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1)
        assert ran.err.endswith("\n") and ran.err[:-1] == visible(ran.err[:-1])


@given(arguments)
@example(NAME)
def test_a_usage_error_that_quotes_an_argument_has_one_line_of_it(text):
    plain = run("knn", "a", "--metric", "x").err.splitlines()
    for args in (["knn", "a", "--metric", f"x{text}"], [f"x{text}"], ["knn", f"--x{text}"], [f"--x{text}"]):
        ran = run(*args)
        lines = ran.err.splitlines()
        assert ran.code == 2 and len(lines) == len(plain)
        assert lines[-1].startswith("Error: ") and all(line == visible(line) for line in lines)


@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_a_message_is_one_line(text):
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        info(f"a{text}")
    assert err.getvalue() == visible(f"a{text}") + "\n"


class Cells(HTMLParser):
    """All text of a page, and its elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags = "", set[str]()
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, module_images) -> Path:
    """A run whose folder, classes and data have the name ``NAME``."""
    out = tmp_path_factory.mktemp("named") / NAME
    tiny = [*TINY, "--epochs", "1", "--steps-per-epoch", "2", "-b", "8", "-j", "0", "--device", "cpu"]
    assert run("pretrain", str(module_images), *tiny, "-o", str(out)).code == 0
    return out


@pytest.fixture(scope="module")
def module_images(tmp_path_factory) -> Path:
    from PIL import Image

    root = tmp_path_factory.mktemp("data") / f"data{NAME}"
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in (NAME, "@b\tc"):
            (root / split / name).mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}{NAME}.png")
    return root


def shown(ran: Ran) -> str:
    """What a command printed, of whose lines each is visible."""
    assert ran.code == 0, ran.err
    for stream in (ran.out, ran.err):
        assert all(line == visible(line) for line in stream.split("\n"))
    return ran.out


def test_a_report_holds_the_names_of_runs_and_classes(folder, tmp_path):
    out = tmp_path / "r.html"
    printed = shown(run("report", str(folder), "-o", str(out), "--size", "16", "--device", "cpu", "-j", "0"))
    page = Cells(out.read_text())
    assert visible(NAME) in printed and visible(NAME) in page.text and "@b\\x09c" in page.text
    assert "b" not in page.tags
    assert out.read_text().replace("\n", "").isprintable()


def test_a_plot_of_runs_is_well_formed(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    shown(run("plot", "curves", str(folder), str(other), "-o", str(tmp_path / "c.svg")))
    assert visible(NAME) in "".join(ET.parse(tmp_path / "c.svg").getroot().itertext())


def test_a_description_shows_the_names(folder):
    assert visible(NAME) in shown(run("inspect", str(folder), str(folder / "checkpoint.pt"), "--keys"))
    found = json.loads(run("inspect", str(folder), "--json").out)
    assert found["files"][0]["path"] == str(folder)


def test_a_ranking_has_a_line_for_each_run_and_a_table_without_formulas(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    table, accuracies = tmp_path / "t.csv", tmp_path / "a.csv"
    printed = shown(run("rank", NAME, "--by", "auc", "--out", str(table)))
    assert sum(visible(NAME) in line for line in printed.splitlines()) == 1
    (row,) = csv.DictReader(io.StringIO(table.read_text(), newline=""))
    assert row["run"].startswith("'=x")
    accuracies.write_text(f'run,accuracy\n"{row["run"].replace(chr(34), chr(34) * 2)}",0.5\n')
    ranked = json.loads(run("rank", NAME, "--by", "auc", "--accuracy", str(accuracies), "--json").out)
    assert [one["accuracy"] for one in ranked["rows"]] == [0.5]


def test_any_value_is_one_cell():
    for value, text in [
        (None, "-"),
        (float("nan"), "-"),
        (np.float32("nan"), "-"),
        (1.23456, "1.235"),
        (1234, "1,234"),
    ]:
        assert cell(value) == text
    for value in (torch.ones(2, 2), np.ones((2, 2)), torch.empty(2, device="meta"), {NAME: [NAME]}, [1, None], b"x"):
        assert cell(value) == visible(cell(value)) and len(cell(value)) > 2
    assert len(cell("x" * 10**6)) <= 1000


def test_keys_of_files_are_shown_on_one_line(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"representations": torch.randn(8, 4), "meta": {NAME: NAME, "strategy": NAME}}, path)
    shown(run("inspect", str(path), "--keys"))
    shown(run("collapse", str(path), "--out", str(tmp_path / "t.csv"), "--group-by", "strategy"))
    torch.save({NAME: {NAME: torch.ones(2)}}, path)
    shown(run("inspect", str(path), "--keys"))
    torch.save({NAME: 1}, path)
    ran = run("knn", str(path), str(path))
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
