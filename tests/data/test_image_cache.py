"""The cache of decoded images: what it holds, how it is resumed, and when it is refused."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fork_server import running
from PIL import Image

from ssltool.config import CacheConfig, DataSettings, PretrainConfig, SaveReprsConfig
from ssltool.data import cache_writer
from ssltool.data.cached_images import cache_path
from ssltool.data.image_cache import CacheFile
from ssltool.data.images import ImageSet, open_dataset
from ssltool.data.loader import Loader
from ssltool.data.packed_paths import PackedPaths
from ssltool.data.preprocessing import IMAGENET
from ssltool.data.views import PAPER
from ssltool.errors import Interrupted, SSLToolError
from ssltool.reprs.representation_set import RepresentationSet
from ssltool.reprs.row_pictures import RowPictures
from ssltool.runs.folder import RunFolder
from ssltool.stages.cache import run as cache
from ssltool.stages.pretrain import plan
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.save_reprs import run as save_reprs

SIZES = ((90, 60), (60, 90), (40, 40), (20, 30), (200, 35))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty JPEG and PNG files of five sizes in two classes."""
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for number in range(20):
        width, height = SIZES[number % len(SIZES)]
        path = folder / "ab"[number % 2] / f"é{number:02d}.{'png' if number % 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return folder


def write(photos: Path, size: int = 32, split: str | None = None, skip_corrupt: bool = False) -> Path:
    out = photos.parent / f"cache{size}"
    cache(CacheConfig(data=str(photos), out=str(out), size=size, split=split, workers=2, skip_corrupt=skip_corrupt))
    return out


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def with_cache(photos: Path, folder: Path, **more: object) -> ImageSet:
    return open_dataset(DataSettings(data=str(photos), cache=str(folder), **more), "train")


def views(images: ImageSet, size: int, workers: int = 0) -> list[torch.Tensor]:
    loader = Loader(images, IMAGENET.at(size), torch.device("cpu"), workers)
    batches = [*loader.train(np.arange(len(images)), [PAPER], batch_size=5, seed=3, epoch=1), *loader.evaluate(5)]
    loader.close()
    return [batch.views[0] for batch in batches]


def test_the_shorter_side_of_larger_images_is_reduced_and_smaller_ones_are_kept(photos):
    images = with_cache(photos, write(photos))
    files = open_dataset(DataSettings(data=str(photos)), "train")
    for row, path in enumerate(files.paths):
        width, height = size_of(path)
        short = min(width, height, 32)
        found = images.cached.pixels(row).shape
        assert min(found[:2]) == short
        assert found[1] / found[0] == pytest.approx(width / height, rel=0.02)


def test_images_that_are_not_larger_give_the_views_of_their_files_bit_for_bit(photos):
    """At 48 pixels no JPEG of these sizes is decoded at a half."""
    files, images = open_dataset(DataSettings(data=str(photos)), "train"), with_cache(photos, write(photos, size=90))
    for ours, theirs in zip(views(images, 48), views(files, 48), strict=True):
        assert torch.equal(ours, theirs)


def test_the_validation_transform_that_resizes_to_the_size_of_the_cache_is_that_of_the_files(photos):
    """IMAGENET at 28 pixels resizes the shorter side to 32, from images that are larger."""
    files, images = open_dataset(DataSettings(data=str(photos)), "train"), with_cache(photos, write(photos))
    rows = np.array([row for row in range(len(files)) if min(size_of(files.paths[row])) >= 32])
    assert IMAGENET.at(28).resize == 32
    ours, theirs = (
        next(iter(Loader(each, IMAGENET.at(28), torch.device("cpu")).evaluate(20, rows))).views[0]
        for each in (images, files)
    )
    assert torch.equal(ours, theirs)


def test_views_do_not_depend_on_the_number_of_workers(photos):
    images = with_cache(photos, write(photos))
    for ours, theirs in zip(views(images, 24, workers=2), views(images, 24), strict=True):
        assert torch.equal(ours, theirs)


def test_a_cache_is_a_dataset_without_its_files(photos):
    folder = write(photos)
    files = open_dataset(DataSettings(data=str(photos)), "train")
    photos.rename(photos.with_name("elsewhere"))
    images = open_dataset(DataSettings(data=str(folder)), "train")
    assert (images.name, images.classes, images.files) == ("cache", files.classes, files.files)
    assert images.fingerprint == files.fingerprint
    assert np.array_equal(images.labels, files.labels)
    assert np.array_equal(images.digests, files.digests)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_the_cache_of_an_archive_is_that_of_its_folder(photos, tmp_path, kind):
    archive = shutil.make_archive(str(tmp_path / "archive"), kind, photos)
    cache(CacheConfig(data=archive, out=str(tmp_path / "of_archive"), size=32, workers=2))
    ours, theirs = (CacheFile.open(cache_path(path, "train")) for path in (tmp_path / "of_archive", write(photos)))
    assert ours.head["fingerprint"] == theirs.head["fingerprint"]
    assert len(with_cache(Path(archive), write(photos))) == len(theirs.labels)
    for row in range(len(theirs.labels)):
        assert np.array_equal(ours.images.pixels(row), theirs.images.pixels(row))


def test_images_of_one_size_are_in_memory_as_their_files_are(tmp_path):
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    files = open_dataset(DataSettings(data=str(tmp_path / "photos")), "train")
    assert torch.equal(with_cache(tmp_path / "photos", write(tmp_path / "photos")).images, files.images)


def test_a_part_of_the_images_has_their_own_pixels(photos, tmp_path):
    numbers = np.array([17, 2, 8])
    np.save(tmp_path / "part.npy", numbers)
    folder = tmp_path / "made_by_a_part"
    whole, part = with_cache(photos, folder), with_cache(photos, folder, idx_path=str(tmp_path / "part.npy"))
    for row, number in enumerate(numbers):
        assert np.array_equal(part.cached.pixels(row), whole.cached.pixels(number))


def test_a_process_that_is_killed_is_continued_to_the_same_file(photos, monkeypatch):
    """The unfinished file of a process that was killed is what an error in the middle leaves."""
    monkeypatch.setattr(cache_writer, "BLOCK", 3)
    whole = cache_path(write(photos), "train").read_bytes()
    decode, decoded = cache_writer.decode, []

    def fails(path, rules):
        decoded.append(path)
        if "é11" in str(path):
            raise MemoryError
        return decode(path, rules)

    out = photos.parent / "second"
    settings = CacheConfig(data=str(photos), out=str(out), size=32, workers=1)
    monkeypatch.setattr(cache_writer, "decode", fails)
    with pytest.raises(MemoryError):
        cache(settings)
    assert not cache_path(out, "train").exists()
    monkeypatch.setattr(cache_writer, "decode", lambda path, rules: decoded.append(path) or decode(path, rules))
    decoded.clear()
    cache(settings)
    assert 0 < len(decoded) < 20
    assert cache_path(out, "train").read_bytes() == whole
    assert [path.name for path in out.iterdir()] == ["train.cache"]


def test_a_torn_write_of_pixels_is_written_again(photos, monkeypatch):
    monkeypatch.setattr(cache_writer, "BLOCK", 3)
    whole = cache_path(write(photos), "train").read_bytes()
    out = photos.parent / "torn"
    out.mkdir()
    file = CacheFile.open(cache_path(photos.parent / "cache32", "train"))
    table = len(whole.partition(b"\n")[0]) + 1
    end = int(file.images.entries["offset"][7]) + 5  # within the eighth image
    torn = bytearray(whole[:end])
    torn[table + 16 * 7 : table + 16 * 20] = bytes(16 * 13)
    (out / ".train.cache.unfinished").write_bytes(torn)
    cache(CacheConfig(data=str(photos), out=str(out), size=32, workers=1))
    assert cache_path(out, "train").read_bytes() == whole


def test_an_unfinished_cache_of_another_size_is_not_continued(photos, monkeypatch):
    whole = cache_path(write(photos), "train").read_bytes()
    other = cache_path(write(photos, size=40), "train")
    unfinished = photos.parent / "cache32" / ".train.cache.unfinished"
    other.rename(unfinished)
    cache_path(photos.parent / "cache32", "train").unlink()
    assert cache_path(write(photos), "train").read_bytes() == whole


def test_a_signal_stops_after_a_block_and_the_next_call_continues(photos, monkeypatch):
    monkeypatch.setattr(cache_writer, "BLOCK", 2)
    append = cache_writer._Unfinished.append

    def stopped(self, block):
        append(self, block)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(cache_writer._Unfinished, "append", stopped)
    with pytest.raises(Interrupted, match="2 of 20"):
        write(photos)
    monkeypatch.setattr(cache_writer._Unfinished, "append", append)
    assert len(CacheFile.open(cache_path(write(photos), "train")).labels) == 20


def test_a_second_process_waits_for_the_first_and_reads_its_file(photos, monkeypatch):
    monkeypatch.setattr(cache_writer, "POLL_SECONDS", 0.01)
    decode, decoded = cache_writer.decode, []

    def slow(path, rules):
        time.sleep(0.01)
        decoded.append(path)
        return decode(path, rules)

    monkeypatch.setattr(cache_writer, "decode", slow)
    first = threading.Thread(target=write, args=(photos,))
    first.start()
    folder = write(photos)
    first.join()
    assert len(decoded) == 20 and os.listdir(folder) == ["train.cache"]
    assert len(with_cache(photos, folder)) == 20


def test_a_cache_is_not_said_to_have_labels_that_came_later(photos, tmp_path, ssltool):
    names = sorted(str(path) for path in photos.rglob("*.png"))
    rows = [("path", "label", "species"), *((name, i, i % 2) for i, name in enumerate(names))]
    (tmp_path / "t.csv").write_text("".join(f"{','.join(map(str, row))}\n" for row in rows))
    write_labels = ("cache", tmp_path / "t.csv", "-o", tmp_path / "labelled", "--label-column")
    assert ssltool(*write_labels, "species").code == 0
    assert ssltool(*write_labels, "species").code == 0  # it is there
    ran = ssltool(*write_labels, "label")
    assert ran.code == 1 and "has other labels" in ran.err and "2 classes" in ran.err
    kept = open_dataset(DataSettings(data=str(tmp_path / "labelled")), "train")
    assert kept.labels.tolist() == [i % 2 for i in range(len(names))]


@pytest.mark.parametrize("as_data", [False, True])
def test_corrupt_images_are_named_and_counted(photos, as_data):
    broken = photos / "a" / "é08.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(SSLToolError, match="é08"):
        write(photos)
    folder = write(photos, skip_corrupt=True)
    if as_data:
        images = open_dataset(DataSettings(data=str(folder)), "train")
    else:
        with pytest.raises(SSLToolError, match="é08"):
            with_cache(photos, folder)
        images = with_cache(photos, folder, skip_corrupt=True)
    assert images.left_out["corrupt"] == ("a/é08.png",)
    assert len(images) == len(images.cached.entries) == 19
    assert not images.cached.corrupt.any()


def test_numbers_of_images_count_corrupt_ones_in_a_cache_as_they_do_in_its_folder(photos, tmp_path):
    broken = photos / "a" / "é08.png"
    broken.write_bytes(broken.read_bytes()[:60])
    folder = write(photos, skip_corrupt=True)
    np.save(tmp_path / "numbers.npy", np.arange(3, 20))
    chosen = {"idx_path": str(tmp_path / "numbers.npy")}
    cached = open_dataset(DataSettings(data=str(folder), **chosen), "train")
    files = open_dataset(DataSettings(data=str(photos), skip_corrupt=True, **chosen), "train")
    assert cached.files == files.files and np.array_equal(cached.index, files.index)
    assert len(cached) == 16 and cached.left_out == {"corrupt": ("a/é08.png",)}


def test_a_cache_that_is_the_dataset_tells_empty_files_from_corrupt_ones(photos):
    broken = photos / "a" / "é08.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (photos / "a" / "é02.png").write_bytes(b"")
    images = open_dataset(DataSettings(data=str(write(photos, skip_corrupt=True))), "train")
    assert images.left_out == {"empty": ("a/é02.png",), "corrupt": ("a/é08.png",)}


def test_a_cache_that_is_the_dataset_tells_missing_files_from_corrupt_ones(photos, tmp_path):
    (tmp_path / "t.csv").write_text("path\nphotos/a/é00.jpg\nno.png\n")
    cache(CacheConfig(data=str(tmp_path / "t.csv"), out=str(tmp_path / "c"), skip_corrupt=True))
    assert open_dataset(DataSettings(data=str(tmp_path / "c")), "train").left_out == {"unreadable": ("no.png",)}


def test_a_cache_of_changed_images_is_refused(photos):
    folder = write(photos)
    Image.new("RGB", (50, 50)).save(photos / "a" / "é00.jpg")
    with pytest.raises(SSLToolError, match="fingerprint"):
        with_cache(photos, folder)


@pytest.mark.parametrize("other", [{"cache_size": 40}, {"background": "black"}, {"raw_pixels": True}])
def test_a_cache_of_other_pixels_is_refused(photos, other):
    folder = write(photos)
    with pytest.raises(SSLToolError, match="was"):
        with_cache(photos, folder, **other)


def test_all_splits_in_a_folder_have_one_size(tmp_path, photos):
    for split in ("train", "val"):
        (tmp_path / "split" / split).parent.mkdir(exist_ok=True)
        os.symlink(photos, tmp_path / "split" / split)
    folder = write(tmp_path / "split", size=24)
    images = open_dataset(DataSettings(data=str(tmp_path / "split"), cache=str(folder)), "val")
    assert images.rules.cache_size == 24


@pytest.mark.parametrize(
    "settings",
    [
        {"cache": "somewhere"},
        {"cache_size": 64},
        {"data": "photos", "cache": "photos"},
        {"data": "cache32", "cache": "somewhere"},
    ],
)
def test_a_cache_without_effect_is_refused(photos, settings, monkeypatch):
    write(photos)
    monkeypatch.chdir(photos.parent)
    with pytest.raises(SSLToolError):
        open_dataset(DataSettings(**settings), "train")
    assert not Path("somewhere").exists()
    assert not cache_path(photos, "train").exists()


def test_a_cache_is_not_written_into_a_folder_of_other_files(photos, tmp_path):
    for folder in (tmp_path, photos / "a"):
        before = sorted(os.listdir(folder))
        with pytest.raises(SSLToolError, match="other files"):
            cache(CacheConfig(data=str(photos), out=str(folder), workers=0))
        assert sorted(os.listdir(folder)) == before


def test_files_beside_a_cache_that_is_the_dataset_are_named(photos):
    folder = write(photos)
    assert not any("beside" in note for note in open_dataset(DataSettings(data=str(folder)), "train").notes)
    Image.new("RGB", (9, 9)).save(folder / "wren.png")
    assert any("wren.png" in note for note in open_dataset(DataSettings(data=str(folder)), "train").notes)


@pytest.mark.parametrize("at", [0, 40, 1000, -1])
def test_a_damaged_file_is_refused_in_one_line(photos, at):
    path = cache_path(write(photos), "train")
    content = path.read_bytes()
    path.write_bytes(content[:at])
    with pytest.raises(SSLToolError) as error:
        CacheFile.open(path)
    assert "\n" not in str(error.value)


def test_an_entry_that_leads_out_of_the_file_is_refused(photos):
    path = cache_path(write(photos), "train")
    content = bytearray(path.read_bytes())
    table = content.index(b"\n") + 1
    content[table : table + 8] = (len(content) - 2).to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(SSLToolError, match="image 0"):
        CacheFile.open(path)


def test_a_worker_receives_numbers_and_maps_the_file_itself(photos):
    cached = with_cache(photos, write(photos)).cached
    sent = pickle.dumps(cached)
    assert len(sent) < 1000 + cached.entries.nbytes
    again = pickle.loads(sent)
    assert np.array_equal(again.pixels(3), cached.pixels(3))
    assert not again.pixels(3).flags.owndata


def test_a_run_is_not_resumed_with_other_pixels(photos, tmp_path):
    settings = {"data": str(photos), "arch": "resnet18_w16", "image_size": 16, "batch_size": 8, "workers": 0}
    settings |= {"steps_per_epoch": 1, "monitor_every": 0, "device": "cpu", "out": str(tmp_path / "run"), "epochs": 1}
    folder = str(tmp_path / "made")
    pretrain(PretrainConfig(**settings, cache=folder, cache_size=32))
    pretrain(PretrainConfig(**settings, cache=folder, resume="auto"))
    for other in ({}, {"cache": str(write(photos, size=40))}):
        with pytest.raises(SSLToolError, match="--cache-size was 32"):
            pretrain(PretrainConfig(**settings, **other, resume="auto"))


def test_pictures_of_rows_are_those_of_the_cache_that_was_the_dataset(photos, tmp_path):
    """Also after an image that was left out, whose number no row has."""
    (photos / "a" / "é04.png").write_bytes(b"no image")
    folder = write(photos, skip_corrupt=True)
    images = open_dataset(DataSettings(data=str(folder)), "train")
    network = {"pretrained": "random", "arch": "resnet18_w8", "image_size": 16, "device": "cpu", "workers": 0}
    save_reprs(SaveReprsConfig(data=str(folder), out=str(tmp_path / "r.pt"), **network))
    pictures = RowPictures(RepresentationSet.open(str(tmp_path / "r.pt")))
    for row in (0, len(images) - 1):
        assert np.array_equal(pictures.picture(row), images.cached.pixels(row))


def test_a_dry_run_writes_no_cache_and_uses_one_that_exists(photos, tmp_path):
    settings = {"data": str(photos), "arch": "resnet18_w8", "image_size": 16, "batch_size": 8, "epochs": 1}
    config = PretrainConfig(**settings, device="cpu", cache=str(tmp_path / "made"))
    assert plan(config)["config"]["cache_size"] is None
    assert not (tmp_path / "made").exists()
    assert plan(dataclasses.replace(config, cache=str(write(photos))))["config"]["cache_size"] == 32


def test_a_run_in_another_folder_finds_the_cache_of_its_settings(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = {"data": "photos", "cache": "made", "arch": "resnet18_w8", "image_size": 16, "batch_size": 8}
    folder = pretrain(PretrainConfig(**images, epochs=1, steps_per_epoch=1, monitor_every=0, device="cpu", workers=0))
    assert RunFolder(folder).read_config()["cache"] == str(tmp_path / "made")


def test_packed_paths_are_the_paths():
    paths = ["a", "", "é/" + 300 * "x", "\udcff.jpg"]
    packed = PackedPaths(paths)
    assert [packed[row] for row in range(len(packed))] == paths


def test_a_killed_command_is_continued(photos, tmp_path, server):
    """SIGKILL at any moment leaves no file under the final name, or a whole one."""
    out = tmp_path / "killed"
    with running(server, "ssltool", "cache", photos, "-o", out, "--size", 32, "-j", 1) as (command, _, _):
        while command.wait(0.002) is None and not (out / ".train.cache.unfinished").exists():
            pass
        os.kill(command.pid, signal.SIGKILL)
        command.wait()
    cache(CacheConfig(data=str(photos), out=str(out), size=32))
    assert cache_path(out, "train").read_bytes() == cache_path(write(photos), "train").read_bytes()


@pytest.mark.parametrize("first", ["train", "val"])
@pytest.mark.parametrize("together", [True, False])
def test_all_splits_of_a_cache_have_one_automatic_range(tmp_path, first, together):
    for split, largest in (("train", 4000), ("val", 2000)):
        (tmp_path / "wide" / split).mkdir(parents=True)
        for i in range(3):
            values = np.linspace(0, largest, 256).reshape(16, 16).astype(np.uint16) + i
            Image.fromarray(values).save(tmp_path / "wide" / split / f"{i}.png")
    settings = {"data": str(tmp_path / "wide"), "dataset_type": "imagenet", "value_range": ("auto",)}
    made = {"out": str(tmp_path / "made"), **settings}
    for split in ["both"] if together else [first, {"train": "val", "val": "train"}[first]]:
        cache(CacheConfig(**made, split=split))
    opened = {split: open_dataset(DataSettings(data=str(tmp_path / "made")), split) for split in ("train", "val")}
    assert opened["train"].rules.value_range == opened["val"].rules.value_range
    again = DataSettings(**settings, cache=str(tmp_path / "made"))
    assert {open_dataset(again, split).rules for split in opened} == {opened["train"].rules}
    pixels = {split: next(iter(images.images)) for split, images in opened.items()}
    low, high = opened["val"].rules.value_range
    grey = (np.linspace(0, 2000, 256).reshape(16, 16).astype(np.uint16) - low) / (high - low) * 255
    assert pixels["val"][0].numpy() == pytest.approx(np.rint(grey.clip(0, 255)), abs=1)
