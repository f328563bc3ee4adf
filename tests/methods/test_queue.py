"""The queue of earlier embeddings: contents, replacement and nearest neighbours."""

from __future__ import annotations

import pytest
import torch

from methods_helpers import build, facts, forward_and_update, nearest, noisy_batch, rows, unit
from ssltool.errors import SSLToolError
from ssltool.methods.parts.queue import Queue, check_queue

QUEUED = ["moco", "nnclr", "nnsiam"]


def queue(size: int = 8, dim: int = 3, batch_size: int = 3) -> Queue:
    torch.manual_seed(0)
    return Queue(size, dim, batch_size)


def numbered(first: int, count: int) -> torch.Tensor:
    """Rows along (1, number, 0), which tell their number whatever their length."""
    return torch.tensor([[1.0, float(first + i), 0.0] for i in range(count)])


def numbers(q: Queue) -> list[int]:
    return [round(float(row[1] / row[0])) for row in q.rows]


def test_it_starts_with_different_random_rows_of_length_1():
    q = queue(size=50)
    torch.testing.assert_close(q.rows.norm(dim=1), torch.ones(50))
    assert len(torch.unique(q.rows, dim=0)) == 50
    assert float(q.rows.mean(dim=0).norm()) < 0.5
    assert int(q.added) == 0


def test_added_rows_are_normalised_and_other_rows_do_not_change():
    q, (new,) = queue(), rows(1, 3, 3)
    before = q.rows.clone()
    q.add(10 * new)
    torch.testing.assert_close(q.rows[:3].double(), torch.from_numpy(unit(new)), atol=1e-6, rtol=0)
    assert torch.equal(q.rows[3:], before[3:])
    assert q.rows.dtype == torch.float32


def test_the_oldest_rows_are_replaced_first():
    q = queue(size=8)
    for first in range(0, 12, 3):
        q.add(numbered(first, 3))
    assert numbers(q) == [8, 9, 10, 11, 4, 5, 6, 7]
    assert int(q.added) == 12


def test_a_whole_queue_can_be_replaced_at_once():
    q = queue(size=3)
    q.add(numbered(1, 3))
    q.add(numbered(4, 3))
    assert numbers(q) == [4, 5, 6]


def test_added_rows_are_detached():
    q, (new,) = queue(), rows(1, 3, 3)
    q.add(new.requires_grad_())
    assert not q.rows.requires_grad


def test_bf16_rows_enter_as_float32():
    q, (new,) = queue(), rows(1, 3, 3)
    q.add(new.bfloat16())
    assert q.rows.dtype == torch.float32
    torch.testing.assert_close(q.rows[:3].norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_is_the_stored_row_of_largest_cosine(seed):
    q, (found_for,) = queue(size=20, dim=4), rows(1, 7, 4, seed)
    assert torch.equal(q.nearest(found_for), nearest(q.rows, found_for))


def test_the_nearest_does_not_depend_on_lengths():
    q, (found_for,) = queue(size=20), rows(1, 7, 3)
    assert torch.equal(q.nearest(100 * found_for), q.nearest(found_for))


def test_a_stored_row_is_its_own_nearest():
    q = queue(size=20)
    assert torch.equal(q.nearest(q.rows), q.rows)


def test_the_nearest_is_detached_and_exact_under_autocast():
    q, (found_for,) = queue(size=500, dim=3), rows(1, 100, 3)
    exact = q.nearest(found_for.float().requires_grad_())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = q.nearest(found_for.float())
    assert torch.equal(found, exact)
    assert not exact.requires_grad


def test_a_queue_shorter_than_a_batch_is_refused():
    assert len(Queue(16, 3, 16).rows) == 16
    with pytest.raises(SSLToolError, match=r"--set queue=15 .*16"):
        Queue(15, 3, 16)


@pytest.mark.parametrize("name", QUEUED)
def test_a_method_refuses_a_queue_shorter_than_its_batch(name):
    with pytest.raises(SSLToolError, match=r"--set queue=15 .*16"):
        build(name, queue=15)


@pytest.mark.parametrize("name", ["nnclr", "nnsiam"])
def test_the_first_views_projections_enter_the_queue(name):
    method = build(name)
    before = method.queue.rows.clone()
    z1 = forward_and_update(method, noisy_batch()).projection
    torch.testing.assert_close(method.queue.rows[:16].double(), torch.from_numpy(unit(z1)), atol=1e-5, rtol=0)
    assert torch.equal(method.queue.rows[16:], before[16:])
    assert int(method.queue.added) == 16


@pytest.mark.parametrize("name", QUEUED)
def test_the_queue_does_not_change_in_evaluation(name):
    method = build(name).eval()
    before = method.queue.rows.clone()
    method(noisy_batch())
    assert torch.equal(method.queue.rows, before)


@pytest.mark.parametrize("name", QUEUED)
def test_a_checkpoint_has_the_queue_and_its_counter(name):
    method, other = build(name), build(name)
    method.queue.add(torch.randn(5, 6, generator=torch.Generator().manual_seed(3)))
    other.load_state_dict(method.state_dict())
    assert torch.equal(method.queue.rows, other.queue.rows)
    assert int(other.queue.added) == 5


@pytest.mark.parametrize("name", QUEUED)
def test_a_queue_of_whole_batches_within_the_data_size_gives_no_warning(name):
    assert build(name, queue=64).warnings() == []


@pytest.mark.parametrize("name", QUEUED)
def test_a_queue_that_is_not_a_multiple_of_the_batch_gives_a_warning(name):
    (warning,) = build(name, queue=33).warnings()
    assert "queue=33 " in warning and "multiple" in warning and "16" in warning


@pytest.mark.parametrize(("images", "batch_size", "wanted"), [(64, 16, 32), (40, 16, 16), (20, 16, 16), (100, 7, 49)])
@pytest.mark.parametrize("name", QUEUED)
def test_a_queue_longer_than_the_data_gives_a_warning_that_suggests_half_the_data(name, images, batch_size, wanted):
    run = facts(images=images, batch_size=batch_size)
    (warning,) = build(name, run, queue=16 * batch_size).warnings()
    assert warning.startswith(f"queue={16 * batch_size} ") and f"images ({images})" in warning
    assert warning.endswith(f"try --set queue={wanted}")
    assert build(name, run, queue=wanted).warnings() == []


def test_a_queue_fits_rows_of_its_width():
    assert check_queue("f", torch.zeros(4, 3), torch.zeros(7, 3)) is None


@pytest.mark.parametrize("shape", [(7, 2), (3,), (1, 7, 3)])
def test_a_queue_of_another_width_is_refused(shape):
    with pytest.raises(SSLToolError) as caught:
        check_queue("f", torch.zeros(4, 3), torch.zeros(shape))
    assert str(caught.value).startswith("f ") and str(caught.value).endswith(f"found {shape} for (4, 3)")


def test_a_queue_is_full_when_no_random_row_is_left():
    q, found = queue(size=8), []
    for first in range(0, 12, 3):
        q.add(numbered(first, 3))
        found.append(q.is_full())
    assert found == [False, False, True, True]
