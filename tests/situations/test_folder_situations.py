"""Situations of folders, of class names and of images in files, each with the right value."""

from __future__ import annotations

import os
import shutil
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import same_bits
from situation_helpers import NETWORK, accuracy, accuracy_between, class_folders, one_line, plain, represent, said
from ssltool.reprs.representations import Representations


def rows_of(path: Path) -> torch.Tensor:
    return Representations.load(path).representations


NAMES = {
    "spaces": ["red car", " leading", "trailing ", "two  spaces"],
    "punctuation": ["a,b", "it's", 'say "hi"', "50%", "a=b", "#1", "c;d", "[x]", "{y}", "*", "?", "$HOME", "`id`"],
    "languages": ["猫", "собака", "Ärger", "كلب", "👍", "ñandú"],
    "controls": ["new\nline", "tab\there", "\x1b[31mred", "‮flipped"],
    "formulas": ["=1+1", "+cmd", "-2x", "@sum"],
    "numbers from one": ["1", "2", "3", "10", "20"],
    "numbers with zeros": ["001", "002", "010"],
    "looks like a value": ["None", "nan", "true", "-1", "0"],
    "differ in case": ["Cat", "cat", "CAT"],
    "long": ["x" * 200, "x" * 199 + "y", "x" * 199 + "z"],
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_classes_of_any_name_are_found_in_a_val_folder_with_some_of_them(ssltool, tmp_path, names):
    colours = {name: number for number, name in enumerate(names)}
    train = class_folders(tmp_path / "train", colours)
    val = class_folders(tmp_path / "val", dict(list(colours.items())[1:]), seed=1)
    assert accuracy_between(ssltool, train, val) == 1.0


def test_no_name_of_a_class_reaches_the_terminal_with_control_characters(ssltool, tmp_path):
    colours = {name: number for number, name in enumerate(NAMES["controls"])}
    for folder in ("train", "val"):
        class_folders(tmp_path / folder, colours, seed=folder == "val")
        represent(ssltool, tmp_path / folder, tmp_path / f"{folder}.pt")
    ran = ssltool("knn", tmp_path / "train.pt", tmp_path / "val.pt", "-k", "1", "--per-class", "--confusion")
    assert ran.code == 0
    assert not [c for c in ran.out + ran.err if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"]


def test_composed_and_decomposed_names_are_one_class(ssltool, tmp_path):
    """macOS and some archives store é as e and an accent."""
    train, val = ({unicodedata.normalize(form, "café"): 1, "tea": 2} for form in ("NFC", "NFD"))
    train_folder = class_folders(tmp_path / "train", train)
    assert accuracy_between(ssltool, train_folder, class_folders(tmp_path / "val", val, seed=1)) == 1.0


TREES = {"one image each": ("", 1), "only deeper": ("/2024", 2)}


@pytest.mark.parametrize(("below", "count"), TREES.values(), ids=TREES)
def test_missing_labels_are_explained_where_they_are_needed(ssltool, tmp_path, below, count):
    """``auto`` reads no labels; each stage that needs them says why, and what to write instead."""
    for split in ("train", "val"):
        class_folders(tmp_path / split, {f"ant{below}": 1, f"bee{below}": 2}, count=count, seed=split == "val")
        ran = represent(ssltool, tmp_path / split, tmp_path / f"{split}.pt")
        assert said(ran, ["without labels", split, "--dataset-type folder"])
    files = tmp_path / "train.pt", tmp_path / "val.pt"
    assert one_line(ssltool("knn", *files), "train.pt", "--dataset-type folder")
    assert one_line(ssltool("lincls", "--reprs", *files, "-o", tmp_path / "p"), "train.pt", "--dataset-type folder")
    for stage in ("lincls", "finetune"):
        ran = ssltool(stage, tmp_path, *NETWORK, "--epochs", "1", "-o", tmp_path / "run")
        assert ran.code == 1 and "error: imagenet train has no labels" in ran.err
        assert "--dataset-type imagenet" in ran.err.splitlines()[-1]
        assert not (tmp_path / "run").exists()


def test_images_in_subfolders_have_the_class_of_the_first_folder(ssltool, tmp_path):
    train = class_folders(tmp_path / "train", {"ant": 1, "bee": 2})
    val = class_folders(tmp_path / "deep", {"ant/2024/june": 1, "bee/2023": 2}, seed=1)
    for name in ("ant", "bee"):
        plain(1 if name == "ant" else 2, seed=9).save(val / name / "top.png")
    assert accuracy_between(ssltool, train, val, "--dataset-type", "folder") == 1.0


def test_suffixes_in_capitals_are_images(ssltool, tmp_path):
    train = class_folders(tmp_path / "train", {"ant": 1, "bee": 2}, end=".PNG")
    assert accuracy_between(ssltool, train, class_folders(tmp_path / "val", {"ant": 1, "bee": 2}, seed=1)) == 1.0
    assert len(rows_of(tmp_path / "train.pt")) == 4


def test_files_of_operating_systems_are_left_out_and_counted(ssltool, tmp_path):
    data = class_folders(tmp_path / "data", {"ant": 1, "bee": 2})
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
        (data / "ant" / name).write_bytes(b"\0\5\x16\7 not an image")
    (data / "ant" / ".ipynb_checkpoints").mkdir()
    plain(1).save(data / "ant" / ".ipynb_checkpoints" / "copy.png")
    ran = represent(ssltool, data, tmp_path / "r.pt")
    assert said(ran, ["Thumbs.db", "desktop.ini"])
    saved = Representations.load(tmp_path / "r.pt")
    assert saved.targets.tolist() == [0, 0, 1, 1]


def test_an_empty_class_folder_of_val_is_named_and_changes_nothing(ssltool, tmp_path):
    train = class_folders(tmp_path / "train", {"ant": 1, "bee": 2, "cat": 3})
    val = class_folders(tmp_path / "val", {"bee": 2, "cat": 3}, seed=1)
    (val / "ant").mkdir()
    for folder in (train, val):
        ran = represent(ssltool, folder, tmp_path / f"{folder.name}.pt")
    if ran.code:
        assert one_line(ran, "ant")
    else:
        assert "ant" in ran.err
        assert accuracy(ssltool, tmp_path / "train.pt", tmp_path / "val.pt") == 1.0


def test_one_folder_by_several_paths_is_one_set_of_images(ssltool, tmp_path, monkeypatch):
    data = class_folders(tmp_path / "data", {"ant": 1, "bee": 2})
    os.symlink(data, tmp_path / "link")
    shutil.copytree(data, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    prints = set()
    for i, name in enumerate(["data", "./data/", str(data), "link", "copy", "data/../data"]):
        assert represent(ssltool, name, tmp_path / f"{i}.pt").code == 0
        prints.add(Representations.load(tmp_path / f"{i}.pt").meta["fingerprint"])
    assert len(prints) == 1


def test_a_query_in_a_copy_of_the_folder_does_not_vote_on_itself(ssltool, tmp_path):
    data = class_folders(tmp_path / "data", {"ant": 1, "bee": 2}, count=1)
    shutil.copytree(data, tmp_path / "copy")
    for name in ("data", "copy"):
        represent(ssltool, tmp_path / name, tmp_path / f"{name}.pt", "--dataset-type", "folder")
    assert accuracy(ssltool, tmp_path / "data.pt", tmp_path / "copy.pt") == 0.0


@pytest.mark.parametrize("name", ["images.zip", "images.tar", "photo.png", "notes.txt"])
def test_a_file_as_data_is_refused_in_one_line(ssltool, tmp_path, name):
    path = tmp_path / name
    if name.endswith(".png"):
        plain(1).save(path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.png", b"")
    assert one_line(represent(ssltool, path, tmp_path / "r.pt"), name)


@pytest.mark.parametrize("contents", [[], ["a.txt"], ["shard-000.tar"], ["ant/notes.md", "bee/notes.md"]])
def test_a_folder_without_images_is_refused_in_one_line(ssltool, tmp_path, contents):
    (tmp_path / "data").mkdir()
    for name in contents:
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_text("text")
    ran = represent(ssltool, tmp_path / "data", tmp_path / "r.pt")
    assert one_line(ran, str(tmp_path / "data"))
    assert not (tmp_path / "r.pt").exists()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 5)])
def test_images_of_extreme_shapes_have_finite_rows(ssltool, tmp_path, size):
    for i in range(3):
        path = tmp_path / "data" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        plain(i).resize(size).save(path)
    plain(4).save(tmp_path / "data" / "usual.png")
    ran = represent(ssltool, tmp_path / "data", tmp_path / "r.pt")
    assert ran.code == 0, ran.err
    rows = rows_of(tmp_path / "r.pt")
    assert len(rows) == 4 and bool(rows.isfinite().all())


def _halves() -> np.ndarray:
    """An RGB image whose left and right halves differ, so that turning it shows."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8], pixels[:, 8:] = (200, 30, 30), (20, 60, 220)
    return pixels


SAME_PIXELS = {
    "a.bmp": lambda image, path: image.save(path, "BMP"),
    "a.ppm": lambda image, path: image.save(path, "PPM"),
    "a.tiff": lambda image, path: image.save(path, "TIFF", compression="tiff_lzw"),
    "a.webp": lambda image, path: image.save(path, "WEBP", lossless=True),
    "a.gif": lambda image, path: image.save(path, "GIF"),
    "palette.png": lambda image, path: image.quantize(4).save(path, "PNG"),
    "rgba.png": lambda image, path: image.convert("RGBA").save(path, "PNG"),
    "profile.png": lambda image, path: image.save(path, "PNG", icc_profile=b"not a profile", dpi=(300, 300)),
    "animated.gif": lambda image, path: image.save(
        path, "GIF", save_all=True, append_images=[Image.new("RGB", (16, 16))]
    ),
    "two pages.tiff": lambda image, path: image.save(
        path, "TIFF", save_all=True, append_images=[Image.new("RGB", (16, 16))]
    ),
    "no suffix": lambda image, path: image.save(path, "PNG"),
    "unknown suffix.img": lambda image, path: image.save(path, "PNG"),
    "really a png.jpg": lambda image, path: image.save(path, "PNG"),
    "turned.png": lambda image, path: image.transpose(Image.Transpose.ROTATE_90).save(path, "PNG", exif=_turned()),
}


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the image must be turned by 270 degrees counter-clockwise
    return exif


@pytest.mark.parametrize("name", SAME_PIXELS)
def test_the_same_pixels_have_the_same_row_in_every_format(ssltool, tmp_path, name):
    for folder in ("png", "other"):
        (tmp_path / folder).mkdir()
    image = Image.fromarray(_halves())
    image.save(tmp_path / "png" / "a.png")
    SAME_PIXELS[name](image, tmp_path / "other" / name)
    for folder in ("png", "other"):
        ran = represent(ssltool, tmp_path / folder, tmp_path / f"{folder}.pt")
        assert ran.code == 0, ran.err
    assert same_bits(rows_of(tmp_path / "png.pt"), rows_of(tmp_path / "other.pt"))


@pytest.mark.parametrize(
    "name", ["grey.png", "grey16.png", "grey16.tiff", "grey16.pgm", "float.tiff", "alpha.png", "one.png"]
)
def test_a_grey_image_has_the_row_of_the_same_grey_in_colour(ssltool, tmp_path, name):
    grey = np.zeros((16, 16), np.uint8)
    grey[:, 4:] = 255
    image = Image.fromarray(grey)
    for folder in ("rgb", "grey"):
        (tmp_path / folder).mkdir()
    image.convert("RGB").save(tmp_path / "rgb" / "a.png")
    if name.startswith("grey16"):
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif name == "float.tiff":
        image = Image.fromarray((grey / 255).astype(np.float32))
    elif name == "alpha.png":
        image = image.convert("LA")
    elif name == "one.png":
        image = image.convert("1")
    image.save(tmp_path / "grey" / name)
    for folder in ("rgb", "grey"):
        ran = represent(ssltool, tmp_path / folder, tmp_path / f"{folder}.pt")
        assert ran.code == 0, ran.err
    torch.testing.assert_close(rows_of(tmp_path / "rgb.pt"), rows_of(tmp_path / "grey.pt"), rtol=0, atol=1e-6)


@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
def test_a_damaged_image_is_named_and_may_be_left_out(ssltool, tmp_path, damage):
    data = class_folders(tmp_path / "data", {"ant": 1, "bee": 2}, end=".jpg")
    broken = data / "ant" / "1.jpg"
    whole = broken.read_bytes()
    broken.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"<html>404</html>"}[damage])
    assert one_line(represent(ssltool, data, tmp_path / "r.pt"), "1.jpg")
    ran = represent(ssltool, data, tmp_path / "r.pt", "--skip-corrupt")
    assert said(ran, ["1"]) and len(rows_of(tmp_path / "r.pt")) == 3


def test_an_empty_name_is_not_the_current_folder(ssltool, tmp_path, monkeypatch):
    """As a shell variable that is not set gives it."""
    class_folders(tmp_path, {"ant": 1, "bee": 2})
    monkeypatch.chdir(tmp_path)
    assert one_line(represent(ssltool, "", tmp_path / "r.pt"), "DATA is empty")
    assert not (tmp_path / "r.pt").exists()


@pytest.mark.parametrize("dataset_type", ["auto", "folder", "cifar10", "arrays"])
def test_a_folder_without_permission_is_named_itself(ssltool, tmp_path, monkeypatch, dataset_type):
    data = class_folders(tmp_path / "data", {"ant": 1, "bee": 2})
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != data)
    ran = represent(ssltool, data, tmp_path / "r.pt", "--dataset-type", dataset_type)
    assert one_line(ran, f"the folder {data} cannot be read")


def test_two_folders_of_one_text_are_one_class(ssltool, tmp_path):
    """A Linux disk may hold é in both forms, from two archives."""
    both = {unicodedata.normalize(form, "café"): 1 for form in ("NFC", "NFD")}
    for split in ("train", "val"):
        class_folders(tmp_path / split, {**both, "tea": 2}, seed=split == "val")
    ran = represent(ssltool, tmp_path, tmp_path / "both", "--split", "both")
    assert ran.code == 0, ran.err
    files = [tmp_path / "both" / f"{split}_reprs_e0.pt" for split in ("train", "val")]
    for file in files:
        assert sorted(Representations.load(file).targets.bincount().tolist()) == [2, 4]
    assert accuracy(ssltool, *files) == 1.0


@pytest.mark.parametrize("form", ["pt", "npy", "parquet"])
def test_names_that_are_no_utf_8_are_stored_in_every_format(ssltool, tmp_path, form):
    """Archives of other systems have names in Latin-1."""
    names = {os.fsdecode(b"b\xe9"): 1, "tea": 2}
    for split in ("train", "val"):
        class_folders(tmp_path / split, names, seed=split == "val")
        ran = represent(ssltool, tmp_path / split, tmp_path / f"{split}.{form}", "--format", form)
        assert ran.code == 0, ran.err
    assert accuracy(ssltool, tmp_path / f"train.{form}", tmp_path / f"val.{form}") == 1.0


def test_folders_that_may_be_splits_too_are_named_if_they_are_not_read(ssltool, tmp_path):
    for name in ("train", "training", "val", "test"):
        class_folders(tmp_path / "data" / name, {"ant": 1, "bee": 2}, seed=len(name))
    ran = represent(ssltool, tmp_path / "data", tmp_path / "r.pt")
    assert said(ran, ["not read: test, training"])


def test_val_alone_of_a_layout_with_train_tells_how_many_of_its_classes_have_images(ssltool, tmp_path):
    class_folders(tmp_path / "data" / "train", {"ant": 1, "bee": 2, "cat": 3})
    class_folders(tmp_path / "data" / "val", {"ant": 1}, seed=1)
    assert said(represent(ssltool, tmp_path / "data", tmp_path / "r.pt", "--split", "val"), ["1 of 3 classes"])
