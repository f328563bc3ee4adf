"""``knn``, ``neighbours`` and ``outliers`` on several ranks give the results of one process, to the bit."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from fork_server import run_ranks

from helpers import same_bits
from knn_helpers import labels, random
from ssltool.files.torch_files import load_dict
from ssltool.reprs.neighbours.search import neighbours
from ssltool.reprs.nonfinite import read_values
from ssltool.training.ranks import Ranks

pytestmark = pytest.mark.xdist_group("two ranks")


class OneAfterAnother(Ranks):
    """Rank ``rank`` of ``world`` in one process; ``sent`` has what the later ranks gave, for each exchange."""

    def __init__(self, rank: int, world: int, sent: dict[int, list[Any]]) -> None:
        self.rank, self.world, self.sent, self.exchanges = rank, world, sent, 0

    def merged(self, value: Any, merge: Any) -> Any:
        others = self.sent.setdefault(self.exchanges, [])
        self.exchanges += 1
        if self.rank:
            others.insert(0, value)
        for other in () if self.rank else others:
            value = merge(value, other)
        return value


def on_ranks(world: int, *args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What rank 0 of ``world`` ranks finds."""
    sent: dict[int, list[Any]] = {}
    for rank in reversed(range(world)):
        found = neighbours(*args, **options, ranks=OneAfterAnother(rank, world, sent))
        assert len(found[0]) == (0 if rank else len(args[1]))
    return found


BANKS = {
    "apart": random(9000, 24),
    "many ties": random(40, 24)[torch.arange(9000) % 40],
    "all equal": torch.full((9000, 24), 0.3),
    "nearly equal": 1 + 1e-6 * random(9000, 24),
}


@pytest.mark.parametrize("bank", BANKS)
@pytest.mark.parametrize(
    ("world", "options"),
    [(2, {}), (3, {"metric": "l2", "memory": 16}), (5, {"precision": "bf16"}), (4, {"chunk": 20, "memory": 16})],
)
def test_parts_of_the_bank_give_the_neighbours_of_the_whole_bank(bank, world, options):
    rows = BANKS[bank]
    queries = torch.cat([rows[::300], random(20, 24, seed=1)])
    ids = torch.cat([torch.arange(0, 9000, 300), torch.full((20,), -1)])
    for k, skip in ((1, None), (30, (torch.arange(9000), ids))):
        wanted = neighbours(rows, queries, k=k, skip=skip, **options)
        assert same_bits(on_ranks(world, rows, queries, k=k, skip=skip, **options), wanted)


def test_each_rank_reads_the_values_of_its_part_only():
    def found(rank, wrong):
        rows = random(10, 3)
        rows[wrong] = torch.inf
        (first, _), (second, _) = read_values(rows.split([4, 6]), OneAfterAnother(rank, 2, {}))
        return (~torch.cat([first, second])).nonzero().flatten().tolist()

    assert [found(0, 4), found(0, 5), found(1, 4), found(1, 5)] == [[4], [], [], [5]]


def test_more_neighbours_than_rows_on_a_rank_and_ranks_without_rows():
    rows, queries = random(20, 5), random(7, 5, seed=1)
    assert same_bits(on_ranks(6, rows, queries, k=19), neighbours(rows, queries, k=19))


def test_two_ranks_of_knn_write_the_files_of_one_process(ssltool, server, write_reprs, tmp_path):
    bank = random(5000, 16)
    bank[4000:] = bank[:1000]  # ties between the parts of the ranks
    paths = [
        write_reprs("train.rank0of2.pt", bank[:2600], labels(2600, list(range(6))), shard=[0, 2]),
        write_reprs("train.rank1of2.pt", bank[2600:], labels(2400, list(range(6))), range(2600, 5000), shard=[1, 2]),
    ]
    assert len(paths) == 2
    queries = write_reprs("val.pt", torch.cat([bank[:100], random(100, 16, seed=2)]), labels(200, list(range(6))))
    results = []
    for run in (lambda *args: ssltool(*args).out, lambda *args: run_ranks(server, "ssltool", *args).stdout):
        near = tmp_path / "near.pt"
        flags = ["--weighted", "-k", "1,5,40", "--select-k", "holdout", "--per-class", "--confusion", "--memory", 16]
        out = run("knn", tmp_path / "train.rank*.pt", queries, *flags, "--neighbours", near, "--json")
        results.append((json.loads(out), load_dict(near)))
        near.unlink()
    assert results[0][0] == results[1][0]
    assert same_bits(results[0][1], results[1][1])


@pytest.mark.parametrize("command", ["outliers", "neighbours"])
def test_two_ranks_print_the_images_of_one_process(ssltool, server, write_reprs, command):
    path = write_reprs("a.pt", random(5000, 8))
    alone, ran = ssltool(command, path, "-k", 5), run_ranks(server, "ssltool", command, path, "-k", 5)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == alone.out


def test_values_that_are_not_finite_on_any_rank_are_one_line_that_counts_those_of_all(ssltool, server, write_reprs):
    bank = random(100, 4)
    bank[[3, 97]] = torch.nan
    paths = write_reprs("bank.pt", bank), write_reprs("queries.pt", random(10, 4))
    ran = run_ranks(server, "ssltool", "knn", *paths)
    assert ran.returncode == 1
    errors = [line for line in ran.stderr.splitlines() if not line.startswith(("waiting", "[Gloo]"))]
    assert errors == ssltool("knn", *paths).err.splitlines() and "(rows 3, 97)" in errors[0]
