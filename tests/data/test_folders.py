"""Folders of class folders as people have them: strays, links, odd names, files of other kinds, closed folders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from ssltool.config import DataSettings
from ssltool.data import listing
from ssltool.data.detection import detect
from ssltool.data.found import record_of
from ssltool.data.images import ImageSet, open_dataset
from ssltool.data.listing import list_images
from ssltool.errors import SSLToolError

COLOURS = {"ant": (250, 10, 10), "bee": (10, 250, 10), "cat": (10, 10, 250)}


def opened(folder, split="train", **changes) -> ImageSet:
    return open_dataset(DataSettings(data=str(folder), **changes), split)


def paint(path: Path, colour: tuple[int, int, int] = (9, 9, 9), number: int = 0, **save) -> Path:
    """Writes an image of one colour; the ``number`` makes its content unique."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (8, 8), colour)
    image.putpixel((0, 0), (number % 256, number // 256, 0))
    image.save(path, **save)
    return path


@pytest.fixture
def animals(tmp_path):
    """Class folders of three colours with four images each."""
    for name, colour in COLOURS.items():
        for i in range(4):
            paint(tmp_path / "animals" / name / f"{i}.png", colour, i)
    return tmp_path / "animals"


def names_of(images: ImageSet) -> list[str]:
    """The class of each image, "" if it has none."""
    return ["" if label < 0 else images.classes[label] for label in images.labels]


def notes(images: ImageSet) -> str:
    return " ".join(images.notes)


def labels_follow_the_folders(images: ImageSet) -> bool:
    return names_of(images) == [file.split("/")[0] for file in images.files]


# Strays, and few images or classes


@pytest.mark.parametrize("stray", ["photo.png", "__MACOSX/ant/._0.png", ".thumbs/0.png", "readme.txt", ".DS_Store"])
def test_strays_beside_the_class_folders_are_left_out_and_named(animals, stray):
    path = animals / stray
    path.parent.mkdir(parents=True, exist_ok=True)
    paint(path) if path.suffix == ".png" else path.write_text("text")
    for dataset_type in ("auto", "folder"):
        made = opened(animals, dataset_type=dataset_type)
        assert (made.name, made.classes, len(made)) == ("folder", ("ant", "bee", "cat"), 12)
        assert labels_follow_the_folders(made)
        (named,) = (path for paths in made.left_out.values() for path in paths)
        assert stray.startswith(named)


@pytest.mark.parametrize("tree", [{"ant": 5}, {"ant": 1, "bee": 1, "cat": 1}], ids=["single class", "one image each"])
def test_an_explicit_type_takes_the_labels_from_any_folders(tmp_path, tree):
    for split in ("train", "val"):
        for name, count in tree.items():
            for i in range(count):
                paint(tmp_path / "set" / split / name / f"{i}.png")
    expected = [name for name, count in tree.items() for _ in range(count)]
    assert names_of(opened(tmp_path / "set" / "train", dataset_type="folder")) == expected
    for split in ("train", "val"):
        assert names_of(opened(tmp_path / "set", split, dataset_type="imagenet")) == expected


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        ({"ant": 5}, "one subfolder"),
        ({"ant": 1, "bee": 1}, "one image"),
        ({"a/deep": 2, "b": 2}, "deeper subfolders"),
        ({"ant": 3, "bee": 3, ".": 2}, "directly"),
    ],
)
def test_auto_says_why_it_reads_no_labels_and_what_to_write(tmp_path, write_images, tree, why):
    for name, count in tree.items():
        write_images(tmp_path / name, count)
    made = opened(tmp_path)
    assert (made.name, set(made.labels)) == ("images", {-1})
    assert why in notes(made) and "--dataset-type folder" in notes(made)


def test_auto_says_that_it_reads_labels_and_how_to_prevent_it(animals):
    assert "--dataset-type images" in notes(opened(animals))
    assert notes(opened(animals, dataset_type="folder")) == ""


def test_an_explicit_layout_of_images_has_no_labels(animals):
    assert set(opened(animals, dataset_type="images").labels) == {-1}


# The folders of the splits


@pytest.mark.parametrize("name", ["train", "val", "test", "training", "Train"])
def test_a_class_may_have_the_name_of_a_split(animals, name):
    for i in range(4):
        paint(animals / name / f"{i}.png")
    made = opened(animals)
    assert made.name == "folder" and len(made) == 16
    assert labels_follow_the_folders(made)


@pytest.mark.parametrize(
    ("train", "val"),
    [("Train", "Val"), ("TRAIN", "VALID"), ("train", "valid"), ("training", "validation"), ("train", "test")],
)
def test_folders_of_the_splits_have_several_names(animals, tmp_path, train, val):
    (tmp_path / "set").mkdir()
    animals.rename(tmp_path / "set" / train)
    paint(tmp_path / "set" / val / "cat" / "0.png")
    assert opened(tmp_path / "set").name == "imagenet"
    assert names_of(opened(tmp_path / "set", "train")) == ["ant"] * 4 + ["bee"] * 4 + ["cat"] * 4
    made = opened(tmp_path / "set", "val")
    assert names_of(made) == ["cat"] and val in notes(made)


def test_val_is_read_before_test(animals, tmp_path):
    (tmp_path / "set").mkdir()
    animals.rename(tmp_path / "set" / "train")
    paint(tmp_path / "set" / "test" / "ant" / "0.png")
    paint(tmp_path / "set" / "Val" / "bee" / "0.png")
    assert names_of(opened(tmp_path / "set", "val")) == ["bee"]


def test_two_folders_that_differ_in_case_only_are_refused(animals, tmp_path):
    for name in ("TRAIN", "Train"):
        paint(tmp_path / "set" / name / "ant" / "0.png")
    with pytest.raises(SSLToolError, match="TRAIN and Train"):
        opened(tmp_path / "set", dataset_type="imagenet")


def test_train_with_class_folders_and_val_are_splits_beside_a_third_folder_of_images(animals, tmp_path):
    (tmp_path / "set").mkdir()
    animals.rename(tmp_path / "set" / "train")
    paint(tmp_path / "set" / "val" / "ant" / "0.png")
    paint(tmp_path / "set" / "masks" / "0.png")
    made = opened(tmp_path / "set")
    assert (made.name, len(made)) == ("imagenet", 12)
    assert "masks" in notes(made)


def test_labels_of_val_without_class_folders_in_train_are_its_own(tmp_path):
    paint(tmp_path / "train" / "0.png")
    for name in ("ant", "bee"):
        paint(tmp_path / "val" / name / "0.png")
    assert set(opened(tmp_path, "train", dataset_type="imagenet").labels) == {-1}
    assert names_of(opened(tmp_path, "val", dataset_type="imagenet")) == ["ant", "bee"]


def test_an_accent_may_be_written_in_two_ways(tmp_path):
    for name in ("b\u00e9", "bar"):
        paint(tmp_path / "train" / name / "0.png")
    paint(tmp_path / "val" / "be\u0301" / "0.png")
    assert names_of(opened(tmp_path, "val", dataset_type="imagenet")) == ["b\u00e9"]


# Without labels


def test_unlabelled_folders_have_no_class(animals):
    for i in range(3):
        paint(animals / "unsorted" / f"{i}.png", number=i)
    made = opened(animals, unlabelled=("unsorted", "bee"))
    assert made.classes == ("ant", "cat")
    assert names_of(made) == ["ant"] * 4 + [""] * 4 + ["cat"] * 4 + [""] * 3
    assert record_of(made)["unlabelled"] == 7


def test_the_number_of_unlabelled_images_is_printed_and_all_of_them_is_explained(animals):
    number = len(opened(animals))
    one = opened(animals, unlabelled=("ant",))
    assert f"{int((one.labels < 0).sum())} unlabelled" in one.describe() and len(one) == number
    every = opened(animals, unlabelled=(*one.classes, "ant"))
    assert set(every.labels) == {-1} and every.classes == () and "--unlabelled" in every.why_unlabelled


def test_a_name_of_unlabelled_may_be_written_in_any_unicode_form(tmp_path, write_images):
    for name in ("be\u0301", "tea"):
        write_images(tmp_path / name, 2)
    made = opened(tmp_path, unlabelled=("b\u00e9",))
    assert made.classes == ("tea",) and made.labels.tolist() == [-1, -1, 0, 0]


def test_unlabelled_folders_of_train_need_not_be_in_val(animals, tmp_path):
    (tmp_path / "set").mkdir()
    paint(animals / "unsorted" / "0.png")
    animals.rename(tmp_path / "set" / "train")
    paint(tmp_path / "set" / "val" / "cat" / "0.png")
    changes = {"dataset_type": "imagenet", "unlabelled": ("unsorted",)}
    assert names_of(opened(tmp_path / "set", "train", **changes))[-1] == ""
    made = opened(tmp_path / "set", "val", **changes)
    assert (names_of(made), made.classes) == (["cat"], ("ant", "bee", "cat"))


def test_an_unlabelled_folder_that_does_not_exist_is_an_error(animals):
    with pytest.raises(SSLToolError, match=r"--unlabelled unsortde.* ant, bee, cat"):
        opened(animals, unlabelled=("unsortde",))


@pytest.mark.parametrize("dataset_type", ["images", "auto"])
def test_unlabelled_without_class_folders_is_an_error(tmp_path, write_images, dataset_type):
    write_images(tmp_path, 2)
    with pytest.raises(SSLToolError, match="--unlabelled has no effect with images"):
        opened(tmp_path, dataset_type=dataset_type, unlabelled=("ant",))


# Files


FORMATS = {"a.gif": "GIF", "b.jfif": "JPEG", "c": "PNG", "d.jpe": "JPEG", "e.img": "BMP", "f.tga": "TGA", "g.jp2": None}
FORMATS |= {"h.avif": "AVIF"} if features.check("avif") else {}


def test_images_are_recognised_by_their_content(tmp_path):
    for number, (name, kind) in enumerate(FORMATS.items()):
        paint(tmp_path / name, number=number, **({"format": kind} if kind else {}))
    for name, content in {"x.heic": b"\0\0\0\x18ftypheic", "notes.txt": b"P5 is the plan", "empty": b""}.items():
        (tmp_path / name).write_bytes(content)
    made = opened(tmp_path)
    assert made.files == tuple(sorted(FORMATS))
    assert made.left_out == {"not an image": ("notes.txt", "x.heic"), "empty": ("empty",)}


def test_a_class_of_other_formats_has_its_images(animals):
    for i in range(4):
        paint(animals / "dog" / f"{i}.gif", number=i)
    assert names_of(opened(animals))[-4:] == ["dog"] * 4


@pytest.mark.parametrize("dataset_type", ["auto", "folder"])
def test_a_class_folder_without_readable_images_is_named(animals, dataset_type):
    (animals / "dog").mkdir()
    (animals / "dog" / "0.heic").write_bytes(b"\0\0\0\x18ftypheic")
    made = opened(animals, dataset_type=dataset_type)
    assert made.classes == ("ant", "bee", "cat")
    assert "dog" in notes(made) and made.left_out["not an image"] == ("dog/0.heic",)


def test_only_regular_files_are_images(animals):
    os.mkfifo(animals / "ant" / "pipe.png")
    os.mkfifo(animals / "ant" / "pipe")
    made = opened(animals)
    assert len(made) == 12 and made.left_out == {"not a regular file": ("ant/pipe", "ant/pipe.png")}


@pytest.mark.parametrize("skip", [False, True])
def test_an_empty_image_file_is_an_error_that_may_be_skipped(animals, skip):
    (animals / "bee" / "1.png").write_bytes(b"")
    if not skip:
        with pytest.raises(SSLToolError, match=r"bee/1\.png is empty.*--skip-corrupt"):
            opened(animals)
        return
    made = opened(animals, skip_corrupt=True)
    assert made.left_out == {"empty": ("bee/1.png",)} and made.skipped == 1
    assert made.index.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]


def test_skipped_files_are_named_by_reason(animals):
    (animals / "bee" / "1.png").write_bytes(b"")
    (animals / "cat" / "2.png").write_bytes(b"no image")
    made = opened(animals, skip_corrupt=True)
    assert made.left_out == {"empty": ("bee/1.png",), "corrupt": ("cat/2.png",)}
    assert (len(made), made.skipped) == (10, 2)
    assert record_of(made)["skipped"]["corrupt"] == {"count": 1, "first": ["cat/2.png"]}


# Links


@pytest.mark.parametrize("target", [".", "..", "../..", "ant"])
def test_a_link_to_a_folder_that_contains_it_is_skipped_and_named(animals, target):
    place = animals / "ant" if target != "ant" else animals / "ant" / "deep"
    place.mkdir(exist_ok=True)
    (place / "loop").symlink_to(target if target != "ant" else animals / "ant", target_is_directory=True)
    made = opened(animals)
    assert len(made) == 12 and labels_follow_the_folders(made)
    (named,) = made.left_out[listing.CYCLE]
    assert named.endswith("loop/")


def test_linked_class_folders_and_files_are_read(animals, tmp_path):
    linked = tmp_path / "linked"
    (linked / "cat").mkdir(parents=True)
    for name in ("ant", "bee"):
        (linked / name).symlink_to(animals / name, target_is_directory=True)
    for i in range(4):
        (linked / "cat" / f"{i}.png").symlink_to(animals / "cat" / f"{i}.png")
    made, plain = opened(linked), opened(animals)
    assert (made.files, made.classes, made.labels.tolist()) == (plain.files, plain.classes, plain.labels.tolist())
    assert made.fingerprint == plain.fingerprint


def test_two_links_to_one_folder_are_two_classes(animals):
    (animals / "wasp").symlink_to("bee", target_is_directory=True)
    assert names_of(opened(animals))[-4:] == ["wasp"] * 4


def test_folders_that_link_to_one_another_are_listed_in_bounded_time(tmp_path):
    names = [f"{i:02d}" for i in range(12)]
    for name in names:
        paint(tmp_path / name / "0.png")
        for other in names:
            (tmp_path / name / f"to{other}").symlink_to(Path("..") / other, target_is_directory=True)
    assert len(list_images(tmp_path).files) < 12 * 12 * 2


def test_broken_links_are_counted(animals):
    (animals / "ant" / "gone.png").symlink_to("nowhere.png")
    (animals / "ant" / "self").symlink_to("self")
    made = opened(animals)
    assert len(made) == 12 and made.left_out == {"broken link": ("ant/gone.png", "ant/self")}


# Folders and files without permission


@pytest.fixture
def closed(monkeypatch):
    """Makes folders unreadable: ``closed(path)``. Permissions do not bind root, who may run the tests."""
    scandir, names = os.scandir, set()

    def guarded(path="."):
        if str(path) in names:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    return lambda path: names.add(str(path))


@pytest.mark.parametrize("dataset_type", ["auto", "folder"])
def test_a_class_folder_that_cannot_be_read_is_an_error_that_names_it(animals, closed, dataset_type):
    closed(animals / "bee")
    with pytest.raises(SSLToolError, match=r"animals/bee cannot be read"):
        opened(animals, dataset_type=dataset_type)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_closed_class_folder_of_train_is_an_error_for_both_splits(animals, tmp_path, closed, split):
    (tmp_path / "set").mkdir()
    animals.rename(tmp_path / "set" / "train")
    paint(tmp_path / "set" / "val" / "cat" / "0.png")
    closed(tmp_path / "set" / "train" / "bee")
    with pytest.raises(SSLToolError, match=r"train/bee cannot be read"):
        opened(tmp_path / "set", split, dataset_type="imagenet")


@pytest.mark.parametrize("dataset_type", ["images", "folder"])
def test_a_subfolder_that_cannot_be_read_is_counted_and_named(animals, closed, dataset_type):
    paint(animals / "ant" / "more" / "0.png")
    closed(animals / "ant" / "more")
    made = opened(animals, dataset_type=dataset_type)
    assert len(made) == 12 and made.left_out == {"unreadable": ("ant/more/",)}


@pytest.mark.parametrize("dataset_type", ["auto", "folder", "imagenet", "images", "arrays", "cifar10", "stl10"])
def test_every_error_of_the_file_system_is_one_line(animals, monkeypatch, dataset_type):
    """An ordinary user meets a folder without permission wherever it is looked at; here each look fails."""

    def refused(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    for name in ("stat", "scandir", "open"):
        monkeypatch.setattr(os, name, refused)
    with pytest.raises(SSLToolError, match=r"cannot (be )?read") as error:
        opened(animals, dataset_type=dataset_type)
    assert "\n" not in str(error.value) and str(animals) in str(error.value)


def test_the_folder_itself_cannot_be_read(animals, closed):
    closed(animals)
    for dataset_type in ("auto", "images", "folder", "imagenet"):
        with pytest.raises(SSLToolError, match=r"animals cannot be read"):
            opened(animals, dataset_type=dataset_type)


@pytest.mark.parametrize("skip", [False, True])
def test_an_image_that_cannot_be_read_is_an_error_that_may_be_skipped(animals, monkeypatch, skip):
    real = os.open

    def guarded(path, *args, **kwargs):
        if str(path).endswith("bee/2.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", guarded)
    if not skip:
        with pytest.raises(SSLToolError, match=r"bee/2\.png cannot be read: Permission denied"):
            opened(animals)
    else:
        assert opened(animals, skip_corrupt=True).left_out == {"unreadable": ("bee/2.png",)}


def test_nothing_readable_says_what_was_skipped(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(SSLToolError, match=r"no images .*1 file that is no image: a\.heic"):
        opened(tmp_path)


# Kinds


NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), exclude_characters="/\\"), min_size=1, max_size=8
).filter(lambda name: not listing.is_hidden(name) and name.strip() == name)
WORDS = st.sampled_from(["train", "val", "test", "0", "1", "10", "a b", "-x", "Train", "images", "ä"])


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(NAMES | WORDS, min_size=2, max_size=4, unique_by=lambda name: name.casefold()),
    extra=st.sets(st.sampled_from(["stray.png", "notes.txt", ".hidden/0.png", "__MACOSX/._0.png", "empty/"])),
    data=st.data(),
)
def test_labels_follow_the_names_of_the_folders(tmp_path_factory, names, extra, data):
    root = tmp_path_factory.mktemp("kind")
    val_names = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    for split, present in (("train", names), ("val", val_names)):
        for name in data.draw(st.permutations(present)):
            for i in range(2):
                paint(root / split / name / f"{i}.png", (hash(name) % 256, 0, 0), i)
        for path in extra:
            if path.endswith("/"):
                (root / split / path).mkdir(exist_ok=True)
            elif path.endswith(".txt"):
                (root / split / path).write_text("text")
            else:
                paint(root / split / path)
    assert detect(str(root)) == "imagenet"
    for split, present in (("train", names), ("val", val_names)):
        made = opened(root, split, dataset_type="imagenet")
        assert labels_follow_the_folders(made)
        assert sorted(made.files) == sorted(f"{name}/{i}.png" for name in present for i in range(2))
        assert made.classes == tuple(sorted(names))
    alone = opened(root / "val", dataset_type="folder")
    assert labels_follow_the_folders(alone) and np.all(alone.labels >= 0)


@pytest.mark.parametrize(
    ("count", "says"), [(1, "1 file that is no image: 0"), (2, "2 files that are no images: 0, 1")]
)
def test_what_was_skipped_agrees_in_number(count, says):
    assert listing.skipped_text({listing.NOT_IMAGE: tuple(map(str, range(count)))}) == says
