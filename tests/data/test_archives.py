"""Zip and tar archives of folders of images, which are read as the folders are."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import TINY, error_message, same_run
from ssltool.config import DataSettings
from ssltool.data import archives
from ssltool.data.decoding import decode
from ssltool.data.detection import detect
from ssltool.data.images import ImageSet, open_dataset
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET
from ssltool.data.sources import SourceImage
from ssltool.errors import SSLToolError
from ssltool.runs.history import read_runs, restore_setup


def opened(path: Path, split: str = "train", **settings) -> ImageSet:
    return open_dataset(DataSettings(data=str(path), **settings), split)


def pack(folder: Path, kind: str, *, top: str = "") -> Path:
    """An archive beside ``folder`` of what it holds, below the folder ``top`` of the archive."""
    path = folder.with_name(f"{folder.name}-{kind}{'-' if top else ''}{top}{'.tar' if kind == 'tar' else '.zip'}")
    files = [file for file in folder.rglob("*") if file.is_file()]
    names = [str(Path(top, file.relative_to(folder))) for file in reversed(files)]  # not in the order of a listing
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            for file, name in zip(reversed(files), names, strict=True):
                archive.add(file, f"./{name}")
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED) as archive:
            for file, name in zip(reversed(files), names, strict=True):
                archive.write(file, name)
    return path


@pytest.fixture
def classes(tmp_path, write_images) -> Path:
    """Class folders with images of two sizes, and what is left out of them."""
    folder = tmp_path / "birds"
    for name, count in (("wren", 3), ("Owl", 2), ("tit/blue", 2)):
        write_images(folder / name, count, size=(20, 16 + count))
    write_images(folder / "tit", 1)
    (folder / "wren" / "notes.txt").write_text("no image")
    (folder / "wren" / "empty").write_text("")
    (folder / "wren" / ".hidden.png").write_text("hidden")
    shutil.copy(folder / "wren" / "000.png", folder / "wren" / "without_extension")
    return folder


def same_images(a: ImageSet, b: ImageSet) -> bool:
    facts = [(x.name, x.files, x.classes, x.fingerprint, x.left_out, x.size, x.labels.tolist()) for x in (a, b)]
    return facts[0] == facts[1] and np.array_equal(a.digests, b.digests) and same_pixels(a, b)


def same_pixels(a: ImageSet, b: ImageSet) -> bool:
    if a.images is not None:
        return torch.equal(a.images, b.images)
    return all(
        np.array_equal(np.asarray(decode(x)), np.asarray(decode(y))) for x, y in zip(a.paths, b.paths, strict=True)
    )


@pytest.mark.parametrize("top", ["", "birds"], ids=["at the top", "in a folder"])
@pytest.mark.parametrize("kind", ["tar", "stored", "deflated"])
def test_archive_of_class_folders_is_the_same_set_as_the_folder(classes, kind, top):
    archive = pack(classes, kind, top=top)
    assert detect(str(archive)) == detect(str(classes)) == "folder"
    assert same_images(opened(archive), opened(classes))
    assert opened(archive).images is None and opened(archive).left_out


@pytest.mark.parametrize("kind", ["tar", "deflated"])
def test_archive_with_train_and_val_has_the_splits_of_the_folder(tmp_path, write_images, kind):
    for split in ("train", "val"):
        for name in ("a", "b"):
            write_images(tmp_path / "set" / split / name, 3)
    archive = pack(tmp_path / "set", kind)
    for split in ("train", "val"):
        assert same_images(opened(archive, split), opened(tmp_path / "set", split))
    assert opened(archive).name == "imagenet" and opened(archive).images is not None


def test_archive_of_unlabelled_images_and_a_folder_in_an_archive_are_read(tmp_path, write_images):
    write_images(tmp_path / "pile", 4)
    archive = pack(tmp_path / "pile", "stored")
    assert same_images(opened(archive), opened(tmp_path / "pile"))
    write_images(tmp_path / "two" / "a", 2)
    write_images(tmp_path / "two" / "b", 3)
    archive = pack(tmp_path / "two", "tar")
    assert same_images(opened(archive / "b"), opened(tmp_path / "two" / "b"))


def test_given_layout_and_unlabelled_classes_hold_for_archives(classes):
    archive = pack(classes, "tar")
    for settings in ({"dataset_type": "images"}, {"unlabelled": ("Owl",)}):
        assert same_images(opened(archive, **settings), opened(classes, **settings))
    with pytest.raises(SSLToolError, match="is a file, not a folder"):
        opened(archive, dataset_type="cifar10")


def test_images_of_an_archive_can_be_sent_to_a_process(classes):
    archive = pack(classes, "deflated")
    images = opened(archive)
    again = pickle.loads(pickle.dumps(images.paths))
    assert [image.read() for image in again] == [image.read() for image in images.paths]
    assert str(images.paths[0]) == f"{archive}/Owl/000.png"


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_an_archive_equal_those_of_the_folder(classes, workers):
    batches = []
    for place in (classes, pack(classes, "stored")):
        loader = Loader(opened(place), IMAGENET.at(16), torch.device("cpu"), workers)
        batches.append([batch.views[0] for batch in loader.evaluate(4)])
        loader.close()
    assert len(batches[0]) == 3 and all(map(torch.equal, *batches))


# Links and names


def tar_of(path: Path, members: list[tuple[str, bytes | str]], kind: bytes = tarfile.SYMTYPE) -> Path:
    """A tar with files of bytes, and links to names."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = kind, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def png(shade: int, size: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), (shade, shade, shade)).save(stream, "PNG")
    return stream.getvalue()


def test_links_in_a_tar_are_the_files_that_they_lead_to(tmp_path):
    one = tar_of(tmp_path / "s.tar", [("a/1.png", png(1)), ("a/2.png", "../b/1.png"), ("b/1.png", png(3))])
    assert opened(one).images[:, 0, 0, 0].tolist() == [1, 3, 3]
    two = tar_of(tmp_path / "h.tar", [("a/1.png", png(1)), ("b/2.png", "a/1.png")], tarfile.LNKTYPE)
    assert opened(two).images[:, 0, 0, 0].tolist() == [1, 1]


def test_links_out_of_a_tar_and_in_circles_are_named_and_left_out(tmp_path):
    links = [("1.png", png(1)), ("out.png", "/etc/passwd"), ("x.png", "y.png"), ("y.png", "x.png"), ("up.png", "../a")]
    made = opened(tar_of(tmp_path / "a.tar", links))
    assert made.files == ("1.png",)
    assert made.left_out == {"broken link": ("out.png", "up.png", "x.png", "y.png")}


def test_names_that_lead_out_of_an_archive_write_nothing_and_stay_inside(tmp_path):
    names = ["/etc/1.png", "/etc/2.png", "../../3.png"]
    made = opened(tar_of(tmp_path / "a.tar", [(name, png(i)) for i, name in enumerate(names)]))
    assert made.files == ("etc/1.png", "etc/2.png")
    assert made.left_out == {"hidden": ("../",)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar"]


def test_of_members_with_one_name_the_last_is_read_as_after_unpacking(tmp_path):
    made = opened(tar_of(tmp_path / "a.tar", [("1.png", png(5)), ("2.png", png(6)), ("1.png", png(7))]))
    assert made.files == ("1.png", "2.png") and made.images[:, 0, 0, 0].tolist() == [7, 6]


def test_names_in_any_script_and_bytes_are_kept(tmp_path):
    names = ["é.png", "日本/1.png", os.fsdecode(b"\xff.png"), f"{'x' * 150}/{'y' * 150}.png"]
    made = opened(tar_of(tmp_path / "a.tar", [(name, png(i)) for i, name in enumerate(names)]), dataset_type="images")
    assert sorted(made.files) == sorted(names)
    assert made.left_out == {}


# Damage


@pytest.mark.parametrize("kind", ["tar", "stored", "deflated"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5])
def test_cut_archive_is_one_line(classes, kind, share):
    archive = pack(classes, kind)
    archive.write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size)])
    with pytest.raises(SSLToolError) as found:
        opened(archive)
    assert "\n" not in str(found.value) and archive.name in str(found.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_member_is_named_and_can_be_skipped(tmp_path, method):
    path = tmp_path / "a.zip"
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "BMP")
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("good.bmp", stream.getvalue())
        archive.writestr("bad.bmp", stream.getvalue())
        place = archive.getinfo("bad.bmp").header_offset
    data = bytearray(path.read_bytes())
    data[place + 150] ^= 255
    path.write_bytes(data)
    with pytest.raises(SSLToolError, match=r"a\.zip/bad\.bmp"):
        opened(path)
    made = opened(path, skip_corrupt=True)
    assert made.files == ("good.bmp",) and sum(map(len, made.left_out.values())) == 1


def test_member_that_would_grow_a_thousandfold_is_not_decompressed(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLTOOL_SIZE_LIMIT", "1")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", png(1))
        archive.writestr("bomb.png", bytes(4 * 2**20))
    with pytest.raises(SSLToolError, match=r"bomb\.png.*declares 4,194,304 bytes"):
        opened(tmp_path / "bomb.zip")
    assert opened(tmp_path / "bomb.zip", skip_corrupt=True).files == ("1.png",)


def test_compressed_tar_is_refused_with_what_to_do(classes):
    made = shutil.make_archive(str(classes), "gztar", classes)
    with pytest.raises(SSLToolError, match="gunzip"):
        detect(made)


def test_impossible_sizes_are_one_line(tmp_path):
    for number, size in enumerate((b"\xff" * 11 + b"\x00", b"\x80" + b"\xff" * 11, b"\x80" + bytes(3) + b"\x7f" * 8)):
        path = tar_of(tmp_path / f"{number}.tar", [("1.png", png(1)), ("2.png", png(2))])
        data = bytearray(path.read_bytes())
        data[124:136] = size
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
        path.write_bytes(data)
        with pytest.raises(SSLToolError, match=rf"{number}\.tar is not a readable"):
            opened(path)


def test_archive_without_images_and_a_file_that_is_no_archive_are_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("notes.txt", "no image")
    with pytest.raises(SSLToolError, match=r"no images in .*a\.zip.*notes\.txt"):
        opened(tmp_path / "a.zip")
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(SSLToolError, match="is a file, not a folder"):
        opened(tmp_path / "text")


def test_changed_archive_is_indexed_again(tmp_path):
    path = tar_of(tmp_path / "a.tar", [("1.png", png(1))])
    assert opened(path).files == ("1.png",)
    tar_of(path, [("2.png", png(2)), ("3.png", png(3))])
    os.utime(path, ns=(1, 1))
    assert opened(path).files == ("2.png", "3.png")


def test_path_of_a_member_finds_it(tmp_path):
    path = tar_of(tmp_path / "a.tar", [("x/1.png", png(1))])
    found = archives.image(path / "x" / "1.png")
    assert isinstance(found, SourceImage) and found.read() == png(1)
    assert archives.image(path / "x") is None and archives.image(tmp_path / "none.png") is None


def test_cache_of_an_archive_is_that_of_the_folder(classes, tmp_path):
    archive, cache = pack(classes, "stored"), str(tmp_path / "cache")
    first = opened(archive, cache=cache)
    again = opened(classes, cache=cache)  # refused if the fingerprint differed
    assert first.files == again.files
    for row, name in enumerate(first.files):
        expected = np.asarray(decode(str(classes / name)))
        assert np.array_equal(first.cached.pixels(row), expected)
        assert np.array_equal(again.cached.pixels(row), expected)


# Commands


def test_a_run_on_an_archive_resumes_on_the_folder_bit_for_bit(classes, ssltool, tmp_path):
    """Hence on the archive too: both are the same images in the same order."""
    flags = [*TINY, "-b", 4, "--device", "cpu", "-j", 0, "--monitor-every", 0]
    archive = pack(classes, "deflated")
    runs = {place: tmp_path / f"run{i}" for i, place in enumerate((classes, archive))}
    for place, run in runs.items():
        assert ssltool("pretrain", place, *flags, "--epochs", 2, "-o", run).code == 0
    assert same_run(*runs.values())


def test_neighbours_names_members_and_shows_their_pictures(classes, ssltool, trained, tmp_path):
    archive = pack(classes, "tar")
    reprs = tmp_path / "a.pt"
    saved = ssltool("save-reprs", archive, "--pretrained", trained / "checkpoint.pt", "--device", "cpu", "-o", reprs)
    assert saved.code == 0, saved.err
    ran = ssltool("neighbours", reprs, "wren/001.png", "--sheet", tmp_path / "s.html", "-k", 1)
    assert ran.code == 0 and "wren/001.png" in ran.out
    archive.unlink()
    ran = ssltool("neighbours", reprs, "wren/001.png", "--sheet", tmp_path / "s.html", "-k", 1)
    assert "no such folder" in error_message(ran)
    ran = ssltool("neighbours", reprs, "wren/001.png", "--sheet", tmp_path / "s.html", "-k", 1, "--data", classes)
    assert ran.code == 0, ran.err


def test_pictures_of_an_imagenet_folder_are_found_in_its_split(ssltool, trained, tmp_path, write_images):
    for name in ("train/a", "train/b", "val/a"):
        write_images(tmp_path / "set" / name, 3)
    reprs = tmp_path / "a.pt"
    flags = ["--pretrained", trained / "checkpoint.pt", "--device", "cpu"]
    assert ssltool("save-reprs", tmp_path / "set", *flags, "-o", reprs).code == 0
    ran = ssltool("neighbours", reprs, "a/001.png", "--sheet", tmp_path / "s.html", "-k", 1)
    assert ran.code == 0, ran.err


def test_a_folder_that_an_archive_lacks_is_an_error_that_names_those_that_it_has(classes):
    archive = pack(classes, "stored")
    with pytest.raises(SSLToolError, match=r"no folder nothing in .*wren") as found:
        opened(archive / "nothing")
    assert "permissions" not in str(found.value)


def test_the_report_finds_images_in_a_folder_of_an_archive(classes, ssltool, tmp_path):
    archive = pack(classes, "stored")
    flags = [*TINY, "-b", 4, "--device", "cpu", "-j", 0, "--monitor-every", 0, "--epochs", 1]
    ran = ssltool("pretrain", archive / "wren", *flags, "-o", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert len(restore_setup(read_runs([tmp_path / "run"])[0]).images) > 0
