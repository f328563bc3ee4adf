"""Batches depend on seed, epoch and step only, not on ranks, workers or where images are stored."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssltool import seeds
from ssltool.config import DataSettings
from ssltool.data import shared_memory, views
from ssltool.data.images import ImageSet, open_dataset
from ssltool.data.loader import Batch, Loader
from ssltool.data.preprocessing import IMAGENET, IMAGENET_STD
from ssltool.data.shard import Shard
from ssltool.data.views import PAPER, PLAIN, PROBE, Recipe
from ssltool.data.workers import WorkerKilled, killed_workers
from ssltool.errors import SSLToolError

CPU = torch.device("cpu")
N, SIZE, BATCH = 24, 20, 8
INDICES = np.random.default_rng(0).permutation(np.arange(2 * N) % N)
RECIPES = [PAPER, PROBE]

STRONG = dataclasses.replace(PLAIN, rotation=15.0, solarize_p=0.5, erase_p=1.0, erase_scale=(0.2, 0.4))
SMALL = dataclasses.replace(PAPER, crop_scale=(0.05, 0.2), size=12)
SEVERAL = [PAPER, SMALL, STRONG, SMALL, dataclasses.replace(STRONG, size=31), PROBE]
"""Views of three sizes, alternating."""

CROP_ROUNDING = 1.25 / 255 / min(IMAGENET_STD)
"""The same for crops of files: torch's weights for 8-bit pixels have 16 bits."""

BYTE_ROUNDING = 2.5 / 255 / min(IMAGENET_STD)
"""The same for training views of files, which are made in 8 bits: each operation rounds to whole levels."""

SIZES = [SIZE, 12, SIZE, 12, 31, SIZE]

ROUNDING = 1e-4
"""Of the same view made beside others."""

PIL_ROUNDING = 1.02 / 255 / min(IMAGENET_STD)
"""Largest difference of a decoded file's view from that of the image in memory: PIL rounds to whole levels after each
of its two passes, and the deviations of the channels magnify it. It holds for views without colour jitter."""


@pytest.fixture
def in_memory(pixels) -> ImageSet:
    """Labelled images of one size."""
    return ImageSet("made", "train", np.arange(N) % 5, np.arange(N), images=pixels(N, 3, 26, 32))


@pytest.fixture
def on_disk(in_memory, tmp_path) -> ImageSet:
    """The same images as files."""
    paths = tuple(str(tmp_path / f"{i:02d}.png") for i in range(N))
    for path, image in zip(paths, in_memory.images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return dataclasses.replace(in_memory, images=None, paths=paths)


def epoch(loader, *, recipes=RECIPES, seed=3, number=1, **settings):
    return list(loader.train(INDICES, recipes, batch_size=BATCH, seed=seed, epoch=number, **settings))


def assert_same(batches, others, tolerance=0.0):
    """Same rows, labels and, within ``tolerance``, views."""
    assert len(batches) == len(others)
    for one, other in zip(batches, others, strict=True):
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.labels, other.labels)
        assert len(one.views) == len(other.views)
        for a, b in zip(one.views, other.views, strict=True):
            assert a.shape == b.shape
            assert (a - b).abs().max() <= tolerance
        assert (one.boxes is None) == (other.boxes is None)
        assert one.boxes is None or torch.equal(one.boxes, other.boxes)


@pytest.fixture(params=["in_memory", "on_disk"])
def images(request) -> ImageSet:
    return request.getfixturevalue(request.param)


def test_boxes_of_batches_are_the_crops_with_mirrored_views_from_right_to_left(images):
    for step, batch in enumerate(epoch(Loader(images, IMAGENET.at(SIZE), CPU), recipes=SEVERAL)):
        generator = seeds.generator(3, 1, step)
        for v, recipe in enumerate(SEVERAL):
            params = views.sample_params(BATCH, recipe, generator)
            for box, (top, left, h, w), flip in zip(
                batch.boxes[:, v].tolist(), views.crop_boxes(params, 26, 32).tolist(), params.flip, strict=True
            ):
                assert box == [top, left + w * flip, top + h, left + w * (not flip)]


def test_a_view_shows_what_is_in_its_box(in_memory, on_disk):
    """Of images whose red grows with the column and whose green grows with the row."""
    y, x = torch.meshgrid(torch.arange(26), torch.arange(32), indexing="ij")
    one = torch.stack([7 * x, 7 * y, 0 * x]).to(torch.uint8)
    for path in on_disk.paths:
        Image.fromarray(one.permute(1, 2, 0).numpy()).save(path)
    for images in (dataclasses.replace(in_memory, images=one.expand(N, -1, -1, -1)), on_disk):
        for batch in epoch(Loader(images, IMAGENET.at(SIZE), CPU), recipes=[PLAIN]):
            shown = views.to_pixels(batch.views[0], IMAGENET.at(SIZE)).float() / 7 + 0.5
            top, left, bottom, right = batch.boxes[:, 0].unbind(dim=1)
            assert torch.allclose(shown[:, 0].mean(dim=(1, 2)), (left + right) / 2, atol=0.1)
            assert torch.allclose(shown[:, 1].mean(dim=(1, 2)), (top + bottom) / 2, atol=0.1)
            half = SIZE // 2
            across = shown[:, 0, :, half:].mean(dim=(1, 2)) - shown[:, 0, :, :half].mean(dim=(1, 2))
            assert torch.allclose(across, (right - left) / 2, atol=0.3)  # negative if mirrored


def test_batches_follow_the_indices_with_their_labels(images):
    batches = epoch(Loader(images, IMAGENET.at(SIZE), CPU))
    assert torch.cat([b.rows for b in batches]).tolist() == INDICES.tolist()
    assert torch.cat([b.labels for b in batches]).tolist() == (INDICES % 5).tolist()
    for batch in batches:
        assert [view.shape for view in batch.views] == [(BATCH, 3, SIZE, SIZE)] * 2
        assert all(view.dtype == torch.float32 for view in batch.views)
        assert not torch.equal(*batch.views)


def test_batches_reproduce_for_the_same_seed_epoch_and_step(images):
    first, again = epoch(Loader(images, IMAGENET.at(SIZE), CPU)), epoch(Loader(images, IMAGENET.at(SIZE), CPU))
    assert_same(first, again)


@pytest.mark.parametrize("other", [{"seed": 4}, {"number": 2}], ids=str)
def test_views_differ_between_seeds_and_epochs(images, other):
    loader = Loader(images, IMAGENET.at(SIZE), CPU)
    for one, two in zip(epoch(loader), epoch(loader, **other), strict=True):
        assert torch.equal(one.rows, two.rows)
        assert not torch.equal(one.views[0], two.views[0])


def test_views_of_the_same_images_differ_between_steps(images):
    indices = np.tile(np.arange(BATCH), 2)
    one, two = Loader(images, IMAGENET.at(SIZE), CPU).train(indices, RECIPES, batch_size=BATCH, seed=3, epoch=0)
    assert not torch.equal(one.views[0], two.views[0])


@pytest.mark.parametrize("recipes", [RECIPES, SEVERAL], ids=["one size", "several sizes"])
@pytest.mark.parametrize("first_step", [1, 4, 6])
def test_an_epoch_started_at_a_later_step_equals_the_rest_of_the_whole_epoch(images, first_step, recipes):
    loader = Loader(images, IMAGENET.at(SIZE), CPU)
    assert_same(epoch(loader, recipes=recipes, first_step=first_step), epoch(loader, recipes=recipes)[first_step:])


@pytest.mark.parametrize("recipes", [RECIPES, SEVERAL], ids=["one size", "several sizes"])
@pytest.mark.parametrize("world", [2, 4])
def test_concatenated_batches_of_all_ranks_equal_the_batch_of_one_process(images, world, recipes):
    loader = Loader(images, IMAGENET.at(SIZE), CPU)
    whole = epoch(loader, recipes=recipes)
    shards = [epoch(loader, recipes=recipes, shard=Shard(rank, world)) for rank in range(world)]
    for batch, parts in zip(whole, zip(*shards, strict=True), strict=True):
        assert torch.cat([p.rows for p in parts]).tolist() == batch.rows.tolist()
        assert torch.cat([p.labels for p in parts]).tolist() == batch.labels.tolist()
        assert torch.equal(torch.cat([p.boxes for p in parts]), batch.boxes)
        for v, view in enumerate(batch.views):
            assert (torch.cat([p.views[v] for p in parts]) - view).abs().max() < ROUNDING


def test_views_have_the_sizes_of_their_recipes_in_the_recipes_order(images):
    for batch in epoch(Loader(images, IMAGENET.at(SIZE), CPU), recipes=SEVERAL):
        assert [view.shape for view in batch.views] == [(BATCH, 3, size, size) for size in SIZES]


@pytest.mark.parametrize("size", [SIZE, 12, 31])
def test_views_do_not_depend_on_views_of_other_sizes(images, size):
    together = epoch(Loader(images, IMAGENET.at(SIZE), CPU), recipes=SEVERAL)
    alone = epoch(
        Loader(images, IMAGENET.at(size), CPU), recipes=[dataclasses.replace(recipe, size=None) for recipe in SEVERAL]
    )
    places = [i for i, other in enumerate(SIZES) if other == size]
    for batch, single in zip(together, alone, strict=True):
        assert torch.equal(batch.rows, single.rows)
        for i in places:
            assert (batch.views[i] - single.views[i]).abs().max() < ROUNDING


def test_erased_parts_of_all_views_are_0(images):
    for batch in epoch(Loader(images, IMAGENET.at(SIZE), CPU), recipes=[STRONG]):
        share = (batch.views[0] == 0).all(dim=1).float().mean(dim=(1, 2))
        assert ((share > 0.15) & (share < 0.45)).all()  # 0.2 to 0.4, in whole pixels


def test_batches_do_not_use_the_global_random_state(images):
    made = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        made.append(epoch(Loader(images, IMAGENET.at(SIZE), CPU)))
        assert (np.random.get_state()[1] == before[1]).all()
        if images.paths is None:  # torch's DataLoader samples a seed for its workers
            assert torch.equal(torch.get_rng_state(), before[0])
    assert_same(*made)


# Files


def test_results_do_not_depend_on_the_number_of_workers(on_disk):
    alone, workers = (Loader(on_disk, IMAGENET.at(SIZE), CPU, workers=n) for n in (0, 2))
    assert_same(epoch(alone), epoch(workers))
    assert_same(epoch(alone, recipes=SEVERAL), epoch(workers, recipes=SEVERAL))
    assert_same(epoch(alone, number=2), epoch(workers, number=2))  # by the same two workers
    assert_same(list(alone.evaluate(BATCH)), list(workers.evaluate(BATCH)))


def test_an_interrupted_epoch_does_not_affect_the_next(on_disk):
    loader = Loader(on_disk, IMAGENET.at(SIZE), CPU, workers=2)
    for _ in loader.train(INDICES, RECIPES, batch_size=BATCH, seed=3, epoch=0):
        break
    assert_same(epoch(loader), epoch(Loader(on_disk, IMAGENET.at(SIZE), CPU)))


@pytest.mark.parametrize("size", [12, 20, 48])
@pytest.mark.parametrize("blur_p", [0.0, 1.0])
def test_files_and_memory_give_the_same_views_within_rounding_to_levels(in_memory, on_disk, size, blur_p):
    recipes = [Recipe(jitter_p=0, blur_p=blur_p)] * 2
    in_memory_batches = epoch(Loader(in_memory, IMAGENET.at(size), CPU), recipes=recipes)
    assert_same(epoch(Loader(on_disk, IMAGENET.at(size), CPU), recipes=recipes), in_memory_batches, BYTE_ROUNDING)


def test_crops_of_files_that_a_gpu_finishes_give_the_same_views(in_memory, on_disk, monkeypatch):
    recipes = [dataclasses.replace(recipe, jitter_p=0.0) for recipe in SEVERAL]
    expected = epoch(Loader(in_memory, IMAGENET.at(SIZE), CPU), recipes=recipes)
    loader = Loader(on_disk, IMAGENET.at(SIZE), CPU)
    loader.in_bytes = False
    monkeypatch.setitem(sys.modules, "ssltool.data.byte_ops", None)  # no OpenCV
    assert_same(epoch(loader, recipes=recipes), expected, CROP_ROUNDING)


def test_files_and_memory_give_the_same_views_of_several_sizes_within_rounding_to_levels(in_memory, on_disk):
    recipes = [dataclasses.replace(recipe, jitter_p=0.0) for recipe in SEVERAL]
    ours, theirs = (epoch(Loader(images, IMAGENET.at(SIZE), CPU), recipes=recipes) for images in (in_memory, on_disk))
    assert_same(ours, theirs, BYTE_ROUNDING)


def test_files_and_memory_give_the_same_jittered_views_on_average(in_memory, on_disk):
    ours, theirs = (epoch(Loader(images, IMAGENET.at(SIZE), CPU), recipes=[PAPER]) for images in (in_memory, on_disk))
    for a, b in zip(ours, theirs, strict=True):
        difference = (a.views[0] - b.views[0]).abs()
        assert difference.mean() < PIL_ROUNDING  # a turned hue can magnify the rounding in single pixels


@pytest.mark.parametrize("size", [12, 20, 48])
def test_files_and_memory_give_the_same_evaluation_views(in_memory, on_disk, size):
    ours, theirs = (list(Loader(images, IMAGENET.at(size), CPU).evaluate(7)) for images in (on_disk, in_memory))
    assert_same(ours, theirs, PIL_ROUNDING)


def test_files_of_the_input_size_are_not_resized_in_evaluation(in_memory, on_disk, pixels):
    squares = dataclasses.replace(in_memory, images=pixels(N, 3, SIZE, SIZE))
    for path, image in zip(on_disk.paths, squares.images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    ours, theirs = (list(Loader(images, IMAGENET.at(SIZE), CPU).evaluate(7)) for images in (on_disk, squares))
    assert_same(ours, theirs, 1e-6)


def test_files_of_any_size_fit_into_one_batch(on_disk, pixels):
    for i, path in enumerate(on_disk.paths):
        Image.fromarray(pixels(9 + i, 40 - i, 3).numpy()).save(path)
    loader = Loader(on_disk, IMAGENET.at(SIZE), CPU)
    for batch in [*epoch(loader), *loader.evaluate(BATCH)]:
        assert batch.views[0].shape[1:] == (3, SIZE, SIZE)
        assert batch.views[0].isfinite().all()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_file_raises_a_single_error_with_its_name(on_disk, workers):
    Path(on_disk.paths[INDICES[11]]).write_bytes(b"no image at all")
    loader = Loader(on_disk, IMAGENET.at(SIZE), CPU, workers=workers)
    batches = loader.train(INDICES, RECIPES, batch_size=BATCH, seed=3, epoch=0)
    assert next(batches).rows.tolist() == INDICES[:BATCH].tolist()  # the image is in the second batch
    name = os.path.basename(on_disk.paths[INDICES[11]])
    with pytest.raises(SSLToolError, match=f"{name} .*--skip-corrupt") as caught:
        next(batches)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    with pytest.raises(SSLToolError, match=name):
        list(loader.evaluate(BATCH))


# Evaluation


@pytest.mark.parametrize("batch_size", [1, 7, 24, 100])
def test_evaluation_yields_each_image_once_in_order(images, batch_size):
    batches = list(Loader(images, IMAGENET.at(SIZE), CPU).evaluate(batch_size))
    assert torch.cat([b.rows for b in batches]).tolist() == list(range(N))
    assert torch.cat([b.labels for b in batches]).tolist() == images.labels.tolist()
    assert all(len(b.views) == 1 for b in batches)
    assert sum(len(b.views[0]) for b in batches) == N


def test_evaluation_applies_the_validation_transform(in_memory):
    (batch,) = Loader(in_memory, IMAGENET.at(SIZE), CPU).evaluate(N)
    assert torch.equal(batch.views[0], views.eval_view(in_memory.images, IMAGENET.at(SIZE)))


# Shards


def test_shards_share_every_batch_equally_and_in_order():
    for world in (1, 2, 4):
        parts = [list(range(8))[Shard(rank, world).slice(8)] for rank in range(world)]
        assert {len(part) for part in parts} == {8 // world}
        assert [row for part in parts for row in part] == list(range(8))


# Batches


def made(support: Batch | None = None) -> Batch:
    views = [torch.randn(4, 3, size, size) for size in (8, 5)]
    return Batch(views, torch.tensor([0, 1, -1, 2]), torch.arange(4), support)


def test_channels_last_changes_only_the_memory_format_of_the_views():
    batch = made(support=made())
    last = batch.channels_last()
    assert last.support is not None and last.support.support is None
    for before, after in ((batch, last), (batch.support, last.support)):
        assert torch.equal(before.labels, after.labels) and torch.equal(before.rows, after.rows)
        for one, other in zip(before.views, after.views, strict=True):
            assert torch.equal(one, other)
            assert one.is_contiguous() and other.is_contiguous(memory_format=torch.channels_last)


# Workers


@pytest.fixture
def on_files(tmp_path, write_images):
    """A set of image files of two sizes, which workers decode."""
    write_images(tmp_path / "pile" / "a", 6)
    write_images(tmp_path / "pile" / "b", 6, size=(12, 18))
    return open_dataset(DataSettings(data=str(tmp_path / "pile"), dataset_type="images"), "train")


def test_batches_are_the_same_where_shared_memory_is_too_small(on_files, monkeypatch, capsys):
    def batches() -> list[torch.Tensor]:
        with contextlib.closing(Loader(on_files, IMAGENET.at(16), torch.device("cpu"), workers=2)) as loader:
            return [batch.views[0] for batch in loader.evaluate(4)]

    enough = batches()
    assert capsys.readouterr().err == ""
    status = types.SimpleNamespace(f_bavail=1, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: status)
    shared_memory._say_slower.cache_clear()
    assert all(map(torch.equal, enough, batches()))
    assert "/dev/shm" in capsys.readouterr().err


# torch's signal handler may raise in the middle of tempfile's code, which then leaves a file to the garbage collection.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_killed_worker_is_one_line(on_files):
    def decode_and_kill(loader: Loader) -> None:
        for _ in range(1000):
            for _ in loader.evaluate(2):
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    with (
        pytest.raises(WorkerKilled, match=r"-j.*--batch-size.*; kept$") as caught,
        killed_workers("kept"),
        contextlib.closing(Loader(on_files, IMAGENET.at(16), torch.device("cpu"), workers=2)) as loader,
    ):
        decode_and_kill(loader)
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_taken_for_a_killed_worker():
    with pytest.raises(RuntimeError, match="shapes"), killed_workers():
        raise RuntimeError("shapes differ")


def test_file_that_became_a_fifo_does_not_block(on_files):
    os.remove(on_files.paths[3])
    os.mkfifo(on_files.paths[3])
    with contextlib.closing(Loader(on_files, IMAGENET.at(16), torch.device("cpu"), workers=1)) as loader:
        with pytest.raises(SSLToolError, match=on_files.paths[3]):
            list(loader.evaluate(4))
