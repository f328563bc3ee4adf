"""The search: exact, whatever the sizes, the files and the threads, and within its memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from knn_helpers import nearest, random, similarities
from ssltool.errors import SSLToolError
from ssltool.reprs.neighbours import search
from ssltool.reprs.neighbours.search import Tile, TileSizes, neighbours
from ssltool.reprs.row_set import RowSet


@pytest.fixture
def sizes(monkeypatch):
    """Makes the search use ``sizes(rows=8, ...)``."""

    def use(**change: int) -> None:
        values = {"rows": 8, "queries": 8, "block": 16, "chunk": 20, "ranked": 7} | change
        monkeypatch.setattr(TileSizes, "within", classmethod(lambda cls, *_: cls(**values)))

    return use


@pytest.fixture
def threads():
    """Lets PyTorch use so many threads until the test ends: ``threads(3)``."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("metric", ["cos", "l2"])
@pytest.mark.parametrize("chunk", [1, 13, 1000])
@pytest.mark.parametrize(("rows", "block"), [(8, 8), (8, 24), (16, 16), (56, 56)])
def test_the_neighbours_do_not_depend_on_the_sizes(sizes, metric, rows, block, chunk):
    bank, queries = random(50, 6), random(30, 6, seed=1)
    sizes(rows=rows, block=block, chunk=chunk)
    similarity, found = neighbours(bank, queries, k=9, metric=metric)
    assert torch.equal(found, nearest(bank, queries, metric, 9))
    # Products of float32 numbers below 10 or so in magnitude, in a handful of operations.
    wanted = similarities(bank, queries, metric).gather(1, found)
    torch.testing.assert_close(similarity.double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("metric", ["cos", "l2"])
@pytest.mark.parametrize("k", [1, 20, 63, 64, 65, 700, 3000])
def test_any_number_of_neighbours_is_found_in_a_bank_of_many_tiles(metric, k):
    bank, queries = random(3000, 5), random(20, 5, seed=1)
    found = neighbours(bank, queries, k=k, metric=metric, memory=16)[1]
    near = similarities(bank, queries, metric)
    assert all(len(set(row)) == k for row in found.tolist())
    # So many rows have some as similar as float32 can tell; what it cannot tell may be in either order.
    torch.testing.assert_close(
        near.gather(1, found), near.sort(dim=1, descending=True).values[:, :k], atol=1e-6, rtol=0
    )


def test_a_bank_sorted_by_distance_has_the_same_neighbours():
    queries = torch.zeros(3, 4)
    bank = torch.linspace(1, 2, 5000)[:, None] * torch.ones(4)
    for order in (torch.arange(5000), torch.arange(5000).flip(0)):
        found = neighbours(bank[order], queries, k=5, metric="l2", memory=16)[1]
        assert order[found].tolist() == [[0, 1, 2, 3, 4]] * 3


@pytest.mark.parametrize("metric", ["cos", "l2"])
def test_a_permuted_bank_has_the_same_neighbours(metric):
    bank, queries, order = random(500, 6), random(40, 6, seed=1), torch.randperm(500)
    similarity, rows = neighbours(bank, queries, k=15, metric=metric)
    other, permuted = neighbours(bank[order], queries, k=15, metric=metric)
    assert torch.equal(order[permuted], rows)
    torch.testing.assert_close(other, similarity, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("metric", ["cos", "l2"])
def test_several_parts_are_one_bank(metric):
    bank, queries = random(100, 6), random(40, 6, seed=1)
    parts = RowSet([bank[:3], bank[3:3], bank[3:60].half(), bank[60:].double()])
    whole = torch.cat([bank[:3], bank[3:60].half().float(), bank[60:]])
    wanted = neighbours(whole, queries, k=12, metric=metric)
    found = neighbours(parts, RowSet([queries[:7], queries[7:]]), k=12, metric=metric)
    assert torch.equal(found[1], wanted[1])
    torch.testing.assert_close(found[0], wanted[0], atol=1e-6, rtol=1e-5)


def test_a_kept_part_of_several_tensors_has_its_positions_and_indices():
    rows = random(30, 4)
    kept = RowSet([rows[:11], rows[11:]]).keep(torch.arange(30) % 3 > 0).keep(torch.arange(20) >= 5)
    wanted = [i for i in range(30) if i % 3 > 0][5:]
    assert len(kept) == 15
    assert kept.index_of(torch.tensor([0, 14, -1])).tolist() == [wanted[0], wanted[14], -1]
    assert torch.equal(kept.block(2, 9), rows[wanted[2:9]])
    assert torch.equal(kept.take(torch.tensor([7, 0, 14])), rows[[wanted[7], wanted[0], wanted[14]]])
    assert RowSet([rows]).keep(torch.ones(30, dtype=torch.bool)).block(3, 5).data_ptr() == rows[3:].data_ptr()


@pytest.mark.parametrize("metric", ["cos", "l2"])
@pytest.mark.parametrize("memory", [16, 512])
@pytest.mark.parametrize("spread", [1, 3])
def test_equal_rows_are_in_the_order_of_the_bank_at_equal_distance(threads, metric, memory, spread):
    threads(spread)
    few = random(40, 24)
    copies = torch.randint(40, (5000,), generator=torch.Generator().manual_seed(1))
    queries = torch.cat([few[:30], random(30, 24, seed=2)])
    similarity, rows = neighbours(few[copies], queries, k=150, metric=metric, memory=memory)
    place = similarities(few, queries, metric)[:, copies].round(decimals=9)  # of 40 rows, so none are this close
    assert torch.equal(rows, place.sort(dim=1, descending=True, stable=True).indices[:, :150])
    assert bool((similarity[:30, :50] == 0).all()) and bool((similarity[30:] < 0).all())
    same = copies[rows][:, 1:] == copies[rows][:, :-1]
    assert torch.equal(similarity[:, 1:] == similarity[:, :-1], same)


def test_products_that_differ_in_their_last_digits_do_not_put_equal_rows_out_of_order(monkeypatch):
    """As they do with other libraries, by where in a matrix a row stands."""
    few, queries = random(30, 24), random(10, 24, seed=2)
    product, noise = search.product, torch.Generator().manual_seed(0)

    def noisy(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        exact = product(a, b)
        return exact + 1e-6 * torch.randn(exact.shape, generator=noise)

    monkeypatch.setattr(search, "product", noisy)
    similarity, rows = neighbours(few.repeat(4, 1), queries, k=120)
    near = nearest(few, queries, "cos", 30)
    assert torch.equal(rows, (near[:, :, None] + 30 * torch.arange(4)).flatten(1))
    assert bool((similarity.unflatten(1, (30, 4)) == similarity[:, ::4, None]).all())


def test_rows_that_are_all_equal_are_in_order():
    similarity, rows = neighbours(torch.full((3000, 4), 0.3), random(20, 4), k=7, memory=16)
    assert rows.tolist() == [list(range(7))] * 20
    assert bool((similarity == similarity[:, :1]).all())


@pytest.mark.parametrize("metric", ["cos", "l2"])
def test_neighbours_of_collapsed_rows_are_those_of_double_precision(metric):
    constant = 10 * random(1, 32, seed=2)
    bank, queries = (constant + 1e-3 * random(n, 32, seed=n) for n in (400, 50))
    unit = torch.nn.functional.normalize if metric == "cos" else torch.Tensor.double
    wanted = torch.cdist(unit(queries.double()), unit(bank.double()), compute_mode="donot_use_mm_for_euclid_dist")
    rows = neighbours(bank, queries, k=10, metric=metric)[1]
    assert torch.equal(rows, wanted.topk(10, dim=1, largest=False).indices)


def test_distances_far_below_the_spread_of_the_bank_are_right():
    """Where a product of float32 numbers leaves nothing of them."""
    bank = 100 * random(500, 64)
    queries = bank[:20] + 1e-3 * random(20, 64, seed=1)
    found, rows = neighbours(bank, queries, k=1, metric="l2")
    assert rows[:, 0].tolist() == list(range(20))
    torch.testing.assert_close(found, similarities(bank, queries, "l2").gather(1, rows).float(), rtol=0.02, atol=0)


def test_a_row_of_zeros_has_cosine_0_with_any():
    bank = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0], [1e-30, 1e-30]])
    similarity, rows = neighbours(bank, torch.tensor([[2.0, 0.0], [0.0, 0.0]]), k=4)
    assert rows[0].tolist() == [0, 3, 1, 2]
    wanted = torch.tensor([[0.0, 0.5**0.5 - 1, -1.0, -2.0], [-1.0] * 4])
    torch.testing.assert_close(similarity, wanted, atol=1e-6, rtol=0)


def test_a_query_excludes_every_row_with_its_id():
    bank, queries = random(30, 3), random(6, 3, seed=1)
    ids = torch.arange(30) // 3
    own = torch.tensor([0, 3, 9, 77, -5, 2])
    similarity, rows = neighbours(bank, queries, k=30, skip=(ids, own))
    for i, order in enumerate(nearest(bank, queries, "cos", 30).tolist()):
        wanted = [row for row in order if ids[row] != own[i]]
        assert rows[i].tolist() == wanted + [-1] * (30 - len(wanted))
        assert bool((similarity[i, len(wanted) :] == -torch.inf).all())
    few = neighbours(bank, queries, k=4, skip=(ids, own))
    assert torch.equal(few[1], rows[:, :4]) and torch.equal(few[0], similarity[:, :4])


def test_missing_neighbours_are_marked_if_the_bank_is_small():
    similarity, rows = neighbours(random(3, 2), random(2, 2, seed=1), k=5)
    assert sorted(rows[0, :3].tolist()) == [0, 1, 2] and rows[:, 3:].eq(-1).all()
    assert bool(similarity[:, 3:].eq(-torch.inf).all() and similarity[:, :3].isfinite().all())


@pytest.mark.parametrize("metric", ["cos", "l2"])
def test_bfloat16_finds_nearly_the_neighbours_of_float32_and_ranks_them_in_float32(metric):
    centres = 3 * random(10, 64)
    bank, queries = (centres.repeat(n // 10, 1) + random(n, 64, seed=n) for n in (2000, 100))
    exact, rows = neighbours(bank, queries, k=20, metric=metric)
    similarity, found = neighbours(bank, queries, k=20, metric=metric, precision="bf16")
    assert (found == rows).double().mean() > 0.99
    wanted = similarities(bank, queries, metric).gather(1, found)
    torch.testing.assert_close(similarity.double(), wanted, atol=1e-5, rtol=1e-4)
    assert bool((similarity <= exact + 1e-3).all())  # which products of float32 numbers as long as these leave


def test_bfloat16_multiplies_bfloat16(monkeypatch):
    seen = set()
    product = search.product
    monkeypatch.setattr(search, "product", lambda a, b: seen.add((a.dtype, b.dtype)) or product(a, b))
    neighbours(random(50, 8), random(20, 8), k=3, precision="bf16")
    assert seen == {(torch.bfloat16, torch.bfloat16)}


@pytest.mark.parametrize("count", [1, 3])
def test_the_threads_share_the_queries_and_restore_the_settings(threads, monkeypatch, count):
    threads(count)
    seen = set()
    update = Tile.update

    def watched(tile: Tile, *args: object) -> None:
        seen.add((threading.get_ident(), torch.get_num_threads()))
        update(tile, *args)

    monkeypatch.setattr(Tile, "update", watched)
    bank, queries = random(9000, 16), random(400, 16, seed=1).requires_grad_()
    similarity, rows = neighbours(bank, queries, k=5)
    assert torch.equal(rows, nearest(bank, queries.detach(), "cos", 5))
    assert ({name for name, _ in seen} == {threading.get_ident()}) == (count == 1)
    assert {alone for _, alone in seen} == {1}
    assert not similarity.requires_grad and torch.is_grad_enabled()
    assert torch.get_num_threads() == count
    late = []
    other = threading.Thread(target=lambda: late.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert late == [count]


@pytest.mark.parametrize("count", [1, 3])
def test_inference_mode_finds_the_same_neighbours(threads, count):
    threads(count)
    ids = torch.arange(3000), torch.arange(400)
    found = neighbours(random(3000, 16), random(400, 16, seed=1), k=5, skip=ids)
    with torch.inference_mode():
        again = neighbours(random(3000, 16), random(400, 16, seed=1), k=5, skip=ids)
        assert torch.is_inference_mode_enabled()
    assert all(map(torch.equal, found, again))


def test_an_error_in_a_thread_is_raised_unchanged(threads):
    threads(3)
    bank = random(9000, 4)
    bank[8765, 2] = torch.nan
    with pytest.raises(SSLToolError, match="NaN"):
        neighbours(bank, random(50, 4), k=5)
    assert torch.get_num_threads() == 3


def test_the_search_reports_its_progress(sizes):
    told = []
    sizes(block=16, chunk=13)
    neighbours(random(50, 6), random(30, 6), k=9, each=told.append)
    assert len(told) == 4 * 3 and sum(told) == 50 * 30


@pytest.mark.parametrize("memory", [16, 64, 512, 8192])
@pytest.mark.parametrize("width", [8, 512, 4096])
@pytest.mark.parametrize("threads", [1, 2, 64])
def test_the_sizes_fit_into_the_memory(memory, width, threads):
    sizes = TileSizes.within(memory, width, 20, threads, 1_200_000, 50_000, None)
    budget = memory * 2**20
    assert threads * sizes.rows * sizes.queries * search.CELL <= budget / 2 or sizes.queries == search.MULTIPLE
    assert sizes.block * width * 8 <= budget / 4 or sizes.block == sizes.rows == search.MULTIPLE
    assert sizes.chunk * width * 8 <= budget / 4 or sizes.chunk == 1
    assert sizes.rows % search.MULTIPLE == sizes.queries % search.MULTIPLE == sizes.block % sizes.rows == 0


def test_few_queries_and_a_small_bank_need_no_large_tiles():
    sizes = TileSizes.within(512, 16, 20, 2, 100, 30, None)
    assert (sizes.rows, sizes.queries, sizes.chunk) == (104, 16, 30)
    assert TileSizes.within(512, 16, 20, 2, 100, 30, 7).chunk == 7


def test_tiles_are_no_larger_than_the_sizes_say(sizes, monkeypatch):
    shapes = set()
    product = search.product
    monkeypatch.setattr(search, "product", lambda a, b: shapes.add((len(a), len(b))) or product(a, b))
    sizes(rows=16, queries=8, block=32, chunk=20)
    neighbours(random(100, 3), random(90, 3), k=5)
    assert shapes == {(16, 8)}


@pytest.mark.parametrize(
    ("bank", "queries", "message"),
    [
        (random(9, 3), random(2, 2), "width 3 .*width 2"),
        (random(0, 3), random(2, 3), "bank"),
        (random(9, 3), torch.full((2, 3), torch.inf), "NaN"),
    ],
)
def test_invalid_banks_and_queries_are_refused(bank, queries, message):
    with pytest.raises(SSLToolError, match=message):
        neighbours(bank, queries, k=1)


@pytest.mark.parametrize("scale", [1e20, 1e30, 1e-20, 1e-30, 1e-37])
@pytest.mark.parametrize("metric", ["l2", "cos"])
def test_the_scale_of_all_rows_changes_neither_neighbours_nor_relative_distances(scale, metric):
    bank, queries = random(60, 8), random(20, 8, seed=1)
    similarity, rows = neighbours(bank, queries, k=5, metric=metric)
    found, scaled = neighbours(bank * scale, queries * scale, k=5, metric=metric)
    assert torch.equal(rows, scaled)
    factor = scale if metric == "l2" else 1.0
    wanted = similarity.double().mul(-2).sqrt() * factor
    torch.testing.assert_close(found.double().mul(-2).sqrt(), wanted, rtol=1e-4, atol=1e-5 * factor)


def test_rows_of_very_different_sizes_are_refused_with_l2():
    for number in (17, 4321, 4322, 4323, 4324):  # also one that is not among the rows that the scale is taken from
        bank = random(5000, 4)
        bank[number] *= 1e30
        with pytest.raises(SSLToolError, match="larger than others"):
            neighbours(bank, random(3, 4), k=1, metric="l2")


WITHIN_LIMIT = """
import resource, sys, torch
from ssltool.reprs.neighbours.search import neighbours

def data_bytes():
    status = open("/proc/self/status").read()
    return 1024 * int(status.split("VmData:")[1].split()[0])

torch.set_num_threads(1)
x = torch.from_file(sys.argv[1], size=200_000 * 128, dtype=torch.float32).reshape(200_000, 128)
neighbours(x[:3000], x[:20], k=5, memory=16)  # what libraries load on first use
resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + int(sys.argv[2]),) * 2)
try:
    x.clone()
    print("the limit limits nothing")
except RuntimeError:
    print(neighbours(x, x[:20], k=1, memory=16)[1].flatten().tolist() == list(range(20)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's own memory is Linux's")
def test_a_mapped_bank_is_searched_in_far_less_memory_than_its_size(tmp_path):
    """The process may not have 48 MiB of memory beside the mapped pages; the file has 98."""
    with (tmp_path / "rows.bin").open("wb") as file:
        for seed in range(20):
            random(10_000, 128, seed=seed).numpy().tofile(file)
    ran = subprocess.run(
        [sys.executable, "-c", WITHIN_LIMIT, tmp_path / "rows.bin", str(48 << 20)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.stdout == "True\n", ran.stderr[-2000:]
