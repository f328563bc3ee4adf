"""``collapse`` on several ranks gives the results of one process."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fork_server import run_ranks

from helpers import assert_close, error_message
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.metrics import METRICS, QUICK
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.spectrum_file import Spectrum
from ssltool.training.ranks import Ranks

pytestmark = pytest.mark.xdist_group("two ranks")

FAILING = """
import os
import sys

from ssltool.cli import main
from ssltool.errors import SSLToolError
from ssltool.reprs.representations import Representations


def unreadable(*args):
    raise SSLToolError("this machine cannot read it")


if os.environ["RANK"] == "1":
    Representations.stored = unreadable
main()
"""


def rows(n: int, d: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) * torch.logspace(0, -1, d) + 0.5


class OneAfterAnother(Ranks):
    """Rank ``rank`` of ``world`` in one process; ``sent`` has what the later ranks gave."""

    def __init__(self, rank: int, world: int, sent: list[Any]) -> None:
        self.rank, self.world, self.sent = rank, world, sent

    def merged(self, value: Any, merge: Any) -> Any:
        for other in self.sent if self.rank == 0 else ():
            value = merge(value, other)
        if self.rank:
            self.sent.insert(0, value)
        return value

    def from_main(self, compute: Any) -> Any:
        return compute() if self.rank == 0 else None


@pytest.mark.parametrize(("n", "world"), [(300, 2), (300, 3), (10, 3), (4, 6)])
@pytest.mark.parametrize("normalize", [False, True])
def test_sums_of_parts_of_the_rows_give_the_results_of_all(n, world, normalize):
    """Any number of ranks, also more than rows and with fewer rows than dimensions; rows are in several files."""
    x = rows(n)
    x[n // 2] = x[0]  # a repeated row in another part
    parts = x.split(max(1, n // 4))
    wanted = measure(Rows(parts), tuple(QUICK), normalize=normalize)
    sent: list[Any] = []
    for rank in reversed(range(world)):
        ranks = OneAfterAnother(rank, world, sent)
        found = measure(Rows(parts, ranks=ranks), tuple(QUICK), normalize=normalize)
    assert_close(found.metrics, wanted.metrics, 1e-11)
    assert_close(found.s.tolist(), wanted.s.tolist(), 1e-11)
    assert found.notes == wanted.notes and found.dead == wanted.dead


@pytest.fixture
def files(write_reprs):
    """Two parts of a set with labels, repeated rows and their images, and a reference of the same images."""
    x = rows(700)
    x[650] = x[3]
    labels = torch.arange(700) % 4
    images = {"split": "train", "fingerprint": "0123456789abcdef"}
    paths = [
        write_reprs("a.pt", x[:300], labels[:300], range(300), **images),
        write_reprs("b.pt", x[300:], labels[300:], range(300, 700), **images),
    ]
    return paths, write_reprs("reference.pt", rows(700, seed=1), labels, **images)


@pytest.mark.parametrize("by", ["--like", "--reference"])
def test_every_option_gives_the_result_of_one_process(ssltool, server, files, tmp_path, by):
    """Both files as one, or each on its own."""
    (a, b), reference = files
    flags = [
        *(["--merge"] if by == "--like" else ["--normalize"]),
        "--metrics",
        "all",
        "--bootstrap",
        2,
        "--subsample",
        "50,200",
        "--pair-rows",
        200,
        "--json",
    ]
    flags += [by, reference, "--fail-on", "partial", "--threshold", "partial_rank=1"]
    flags += ["--type", "all", "--plot", tmp_path / "plot.svg"]
    one = ssltool("collapse", a, b, *flags)
    paths = [path for found in one.json["files"] for path in found["spectra"].values()]
    kept = [Spectrum.load(path).stds for path in paths]
    for path in paths:
        Path(path).unlink()
    (tmp_path / "plot.svg").unlink()
    two = run_ranks(server, "ssltool", "collapse", a, b, *flags)
    assert one.code == two.returncode == 3
    document = json.loads(two.stdout)
    assert len(document["files"][0]["metrics"]) > 0.7 * len(METRICS)
    assert_close(document, one.json, 1e-11)
    torch.testing.assert_close([Spectrum.load(path).stds for path in paths], kept, rtol=1e-11, atol=0)
    assert (tmp_path / "plot.svg").exists()
    notes = [line for line in two.stderr.splitlines() if line.startswith("note: ")]
    assert notes == one.err.splitlines() and len(notes) == len(set(notes)) > 1


def test_rows_that_are_not_finite_are_left_out_or_refused_by_all_ranks(ssltool, server, write_reprs):
    x = rows(500)
    x[[3, 250, 499], 1] = math.nan
    path = write_reprs("a.pt", x, torch.arange(500) % 3)
    flags = ["--skip-nonfinite", "--bootstrap", 2, "--subsample", 50, "--metrics", "auc,effective_rank,nc1", "--json"]
    one, two = ssltool("collapse", path, *flags), run_ranks(server, "ssltool", "collapse", path, *flags)
    assert two.returncode == 0, two.stderr
    assert one.json["files"][0]["n"] == 497
    assert_close(json.loads(two.stdout), one.json, 1e-11)
    refused, alone = run_ranks(server, "ssltool", "collapse", path), ssltool("collapse", path)
    assert refused.returncode == alone.code == 1
    assert alone.err in refused.stderr and "Traceback" not in refused.stderr


def test_an_error_on_one_rank_ends_all_and_writes_nothing(server, write_reprs, tmp_path):
    path = write_reprs("a.pt", rows(50))
    (tmp_path / "program.py").write_text(FAILING)
    ran = run_ranks(server, tmp_path / "program.py", "collapse", path, limit=60)
    assert ran.returncode == 1
    assert "this machine cannot read it" in ran.stderr and "Traceback" not in ran.stderr
    assert ran.stdout == "" and not (tmp_path / "a_svd.pt").exists()


def test_a_rank_that_is_missing_among_merged_files_is_named(ssltool, write_reprs):
    """Of each split, because another split has files of the same ranks."""
    x = rows(40)
    for split in ("train", "val"):
        for rank in range(4):
            write_reprs(f"{split}.rank{rank}of4.pt", x[rank::4], shard=[rank, 4], split=split)
    whole = sorted((write_reprs("other.pt", x).parent).glob("*.rank*of4.pt"))
    assert len(whole) == 8 and ssltool("collapse", *whole, "--merge").code == 0
    missing = next(path for path in whole if path.name == "val.rank1of4.pt")
    message = error_message(ssltool("collapse", *(path for path in whole if path != missing), "--merge"))
    assert "rank 1 of 4" in message and str(missing) in message


def test_the_file_of_one_rank_alone_has_a_note_that_names_the_others(ssltool, write_reprs):
    path = write_reprs("a.rank1of2.pt", rows(40), shard=[1, 2])
    (note,) = [note for note in ssltool("collapse", path, "--json").json["files"][0]["notes"] if "rank 1" in note]
    assert str(path).replace("rank1", "rank*") in note
