"""Neighbours, duplicates and outliers of a folder of images, as a user calls them."""

from __future__ import annotations

import csv
import json
import math
import shutil

import numpy as np
import pytest
import timm
import torch
from album import save_album, write_album
from PIL import Image

from helpers import error_message, usage_message
from ssltool.reprs.representations import Representations

NAMES = (
    [f"cat/{i}.png" for i in range(5)] + ["cat/copy.png"] + [f"dog/{i}.png" for i in range(5, 10)] + ["dog/again.jpg"]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("album") / "images"
    write_album(path)
    return path


@pytest.fixture(scope="module")
def album(folder, trained):
    """The representations of the album."""
    return save_album(folder, trained / "checkpoint.pt", folder.parent / "album.pt")


@pytest.fixture
def some_rows(write_reprs):
    """Representations without paths, digests and labels, whose first row is far from all others."""
    angles = torch.tensor([2.0, 0.0, 0.01, 0.03, 0.06])
    return write_reprs("rows.pt", torch.stack([angles.cos(), angles.sin()], dim=1))


def near(ran, query=0):
    return [one["name"] for one in ran.json["queries"][query]["neighbours"]]


def test_files_name_their_images_and_the_folder(album, folder):
    saved = Representations.load(album)
    assert sorted(saved.paths) == sorted(NAMES)
    assert saved.meta["data"] == str(folder)


def test_the_nearest_image_of_a_copy_is_its_original_without_labels(ssltool, album):
    ran = ssltool("neighbours", album, "cat/copy.png", "again", "--json", "-k", 3)
    assert near(ran)[0] == "cat/0.png" and near(ran, 1)[0] == "dog/5.png"
    first = ran.json["queries"][0]["neighbours"][0]
    assert (first["rank"], first["distance"], first["class"]) == (1, 0.0, "cat")
    assert "cat/copy.png" not in near(ran)


def test_distances_are_one_minus_cosine_and_ascend(ssltool, album):
    saved = Representations.load(album)
    unit = torch.nn.functional.normalize(saved.representations.double(), dim=1)
    row = saved.paths.index("dog/7.png")
    found = ssltool("neighbours", album, "dog/7.png", "--json", "-k", 11).json["queries"][0]["neighbours"]
    expected = (1 - unit @ unit[row])[torch.tensor([one["row"] for one in found])]
    assert torch.tensor([one["distance"] for one in found]).double() == pytest.approx(expected, abs=1e-6)
    assert expected.tolist() == sorted(expected.tolist()) and len(found) == 11


def test_a_query_may_be_a_number_of_the_dataset_or_a_file_of_the_same_content(ssltool, album, folder, tmp_path):
    shutil.copy(folder / "dog" / "8.png", tmp_path / "elsewhere.png")
    saved = Representations.load(album)
    number = int(saved.index[saved.paths.index("dog/8.png")])
    ran = ssltool("neighbours", album, number, tmp_path / "elsewhere.png", "--json")
    assert [found["path"] for found in ran.json["queries"]] == ["dog/8.png"] * 2


def test_an_image_file_that_is_not_in_the_set_is_embedded(ssltool, album, folder, tmp_path):
    image = Image.open(folder / "dog" / "6.png")
    image.save(tmp_path / "new.bmp")  # the same pixels, another content
    ran = ssltool("neighbours", album, tmp_path / "new.bmp", "--json", "--sheet", tmp_path / "new.html")
    assert near(ran)[0] == "dog/6.png"
    assert ran.json["queries"][0]["neighbours"][0]["distance"] < 1e-5
    assert ran.json["queries"][0]["row"] is None


def test_a_query_is_embedded_by_the_architecture_that_a_checkpoint_does_not_tell(ssltool, folder, tmp_path):
    torch.manual_seed(0)
    vit = timm.models.VisionTransformer(img_size=8, patch_size=8, embed_dim=384, num_heads=6, num_classes=0)
    weights = vit.state_dict()
    weights["pos_embed"][:, 0] = 0
    torch.save(weights, tmp_path / "vit.pth")
    flags = ["-a", "vit_small_h6_p8", "--pretrained", tmp_path / "vit.pth", "--device", "cpu", "-j", 0]
    ran = ssltool("save-reprs", folder, *flags, "-o", tmp_path / "vit.pt", "--skip-corrupt", "--image-size", 8)
    assert ran.code == 0, ran.err
    Image.open(folder / "dog" / "6.png").save(tmp_path / "new.bmp")
    ran = ssltool("neighbours", tmp_path / "vit.pt", tmp_path / "new.bmp", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["queries"][0]["neighbours"][0]["distance"] < 1e-5


def test_a_corrupt_query_is_refused_with_what_the_command_can_do(ssltool, album, folder, trained, tmp_path):
    broken = tmp_path / "photos" / "broken.jpg"
    broken.parent.mkdir()
    broken.write_bytes((folder / "dog" / "again.jpg").read_bytes()[:300])
    said = error_message(ssltool("neighbours", album, broken))
    assert str(broken) in said and "replace it" in said and "--skip-corrupt" not in said
    flags = ("--pretrained", trained / "checkpoint.pt", "--device", "cpu", "-j", 0, "-o", tmp_path / "out.pt")
    assert "--skip-corrupt" in ssltool("save-reprs", broken.parent, *flags).err


def test_another_checkpoint_does_not_embed_queries(ssltool, album, tmp_path, folder, tiny):
    from ssltool.stages.pretrain import run

    other = run(tiny(seed=3, epochs=1, steps_per_epoch=1, monitor_every=0)) / "checkpoint.pt"
    Image.open(folder / "dog" / "6.png").save(tmp_path / "new.bmp")
    ran = ssltool("neighbours", album, tmp_path / "new.bmp", "--pretrained", other)
    assert "is not the checkpoint that computed its rows" in ran.err.splitlines()[-1]
    assert ran.code == 1
    assert "--pretrained does nothing" in error_message(ssltool("neighbours", album, "dog/6", "--pretrained", other))


def test_wrong_queries_are_one_line(ssltool, album, some_rows):
    assert "is the name of 6 images" in error_message(ssltool("neighbours", album, "cat"))
    assert "no image of" in error_message(ssltool("neighbours", album, "horse"))
    assert "no image has the number 'a'" in error_message(ssltool("neighbours", some_rows, "a"))
    assert "its numbers are from 0 to 4" in error_message(ssltool("neighbours", some_rows, 5))


def test_without_queries_different_images_are_chosen_and_stderr_says_how(ssltool, album):
    ran = ssltool("neighbours", album, "--spread", 3, "--json")
    assert len({found["query"] for found in ran.json["queries"]}) == 3
    assert "k-means, seed 10" in ran.err
    assert ssltool("neighbours", album, "--spread", 3, "--json").json == ran.json
    assert "--spread does nothing" in usage_message(ssltool("neighbours", album, "dog/6", "--spread", 2))


def test_arrays_have_the_numbers_of_images_as_names(ssltool, trained, tmp_path):
    np.save(tmp_path / "some.npy", np.array([5, 3, 40, 41]))
    flags = ["--pretrained", trained / "checkpoint.pt", "--device", "cpu", "--idx-path", tmp_path / "some.npy"]
    assert ssltool("save-reprs", *flags, "-o", tmp_path / "a.pt").code == 0
    ran = ssltool("neighbours", tmp_path / "a.pt", 40, "--json", "--sheet", tmp_path / "a.svg")
    assert ran.json["queries"][0]["query"] == "#40"
    assert sorted(near(ran)) == ["#3", "#41", "#5"]
    assert "#41" in (tmp_path / "a.svg").read_text()


def test_tables_have_a_row_for_each_neighbour(ssltool, album, tmp_path):
    assert ssltool("neighbours", album, "dog/7", "-k", 2, "-o", tmp_path / "n.csv").code == 0
    rows = list(csv.DictReader((tmp_path / "n.csv").read_text().splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2"] and {row["query"] for row in rows} == {"dog/7.png"}
    ran = ssltool("neighbours", album, "dog/7", "-k", 2, "-o", tmp_path / "n.json", "--json")
    assert json.loads((tmp_path / "n.json").read_text()) == ran.json


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_names_survive_other_formats(ssltool, folder, trained, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    out = save_album(folder, trained / "checkpoint.pt", tmp_path / f"a{suffix}", format=suffix[1:])
    ran = ssltool("neighbours", out, "cat/copy.png", "--json", "--sheet", tmp_path / "a.png")
    assert near(ran)[0] == "cat/0.png"


def test_the_files_of_several_ranks_are_one_set_of_names(ssltool, folder, trained, tmp_path, monkeypatch):
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        flags = ["--pretrained", trained / "checkpoint.pt", "--device", "cpu", "-b", 4, "-o", tmp_path / "a.pt"]
        assert ssltool("save-reprs", folder, *flags).code == 0
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name)
    ran = ssltool("duplicates", tmp_path / "a.rank*.pt", "--threshold", 1e-9, "--json")
    assert [one["name"] for one in ran.json["equal"][0]] == ["cat/0.png", "cat/copy.png"]


def test_equal_images_are_named_apart_from_near_duplicates(ssltool, album):
    default = ssltool("duplicates", album, "--json").json
    assert default["threshold"] == pytest.approx(0.01 * default["median_distance"], rel=0.1)
    ran = ssltool("duplicates", album, "--json", "--threshold", 0.05 * default["median_distance"])
    assert [[one["name"] for one in group] for group in ran.json["equal"]] == [["cat/0.png", "cat/copy.png"]]
    assert ["dog/5.png", "dog/again.jpg"] in [sorted(one["name"] for one in group) for group in ran.json["near"]]
    assert ran.json["leaked"] is None
    assert all(0 < one["distance"] <= ran.json["threshold"] for group in ran.json["near"] for one in group)


def test_equal_images_are_in_a_group_once(ssltool, album):
    """At a threshold that connects everything, the copy is counted and not listed."""
    (group,) = ssltool("duplicates", album, "--threshold", 2, "--json").json["near"]
    assert [one["copies"] for one in group if one["name"] == "cat/0.png"] == [1]
    assert "cat/copy.png" not in [one["name"] for one in group] and len(group) == 11


def test_images_of_two_files_are_compared_with_the_other_file_only(ssltool, album, folder, trained, tmp_path):
    val = tmp_path / "val"
    write_album(val / "new", seed=1)
    shutil.copy(folder / "cat" / "3.png", val / "leak.png")
    Image.open(folder / "dog" / "9.png").save(val / "leak.jpg", quality=95)
    other = save_album(val, trained / "checkpoint.pt", tmp_path / "val.pt")
    ran = ssltool("duplicates", album, other, "--json", "--sheet", tmp_path / "leaks.html")
    files = [str(album), str(other)]
    assert [[(one["name"], one["file"]) for one in group] for group in ran.json["equal"]] == [
        [("cat/3.png", files[0]), ("leak.png", files[1])]
    ]
    assert [("dog/9.png", files[0]), ("leak.jpg", files[1])] in [
        [(one["name"], one["file"]) for one in group] for group in ran.json["near"]
    ]
    assert ran.json["leaked"] == 2
    page = (tmp_path / "leaks.html").read_text()
    assert page.count("<img") == 4 and "leak.jpg" in page
    assert "2 of 14 images" in ssltool("duplicates", album, other).out


def test_images_that_are_equal_in_both_files_are_near_duplicates_of_other_images_only(ssltool, write_reprs):
    """Both files hold x and y, which are 0.1 rad apart, and z, which is far from both; only the second holds w, which
    is 0.05 rad from y."""
    x, y, z, w = ([math.cos(angle), math.sin(angle)] for angle in (0.0, 0.1, 1.5, 0.15))
    a, b = write_reprs("a.pt", torch.tensor([x, y, z])), write_reprs("b.pt", torch.tensor([z, x, y, w]))
    ran = ssltool("duplicates", a, b, "--threshold", 0.01, "--json").json
    assert [len(group) for group in ran["equal"]] == [2, 2, 2]
    (group,) = ran["near"]
    assert [(one["row"], one["copies"]) for one in group] == [(0, 1), (1, 1), (3, 0)]
    distances = [1 - math.cos(angle) for angle in (0.1, 0.05, 0.05)]
    assert [one["distance"] for one in group] == pytest.approx(distances, rel=1e-3)
    assert ran["leaked"] == 4


def test_a_set_of_equal_images_does_not_make_the_threshold_too_large(ssltool, folder, trained, tmp_path):
    copies = tmp_path / "copies"
    write_album(copies)
    for number in range(8):
        shutil.copy(copies / "cat" / "0.png", copies / f"{number}.png")
    saved = save_album(copies, trained / "checkpoint.pt", tmp_path / "copies.pt")
    ran = ssltool("duplicates", saved, "--threshold", 1e-9, "--json").json
    assert [len(group) for group in ran["equal"]] == [10] and ran["near"] == []
    assert not any("threshold" in note for note in ran["notes"])


def test_files_of_different_networks_are_not_compared(ssltool, write_reprs):
    a = write_reprs("a.pt", torch.eye(4), layer="backbone")
    b = write_reprs("b.pt", torch.eye(4), layer="projector")
    assert "REPRS and REPRS2 come from different networks" in error_message(ssltool("duplicates", a, b))


def test_without_digests_equal_rows_are_equal_images(ssltool, write_reprs):
    path = write_reprs("a.pt", torch.eye(6)[[0, 1, 2, 3, 1, 5]])
    ran = ssltool("duplicates", path, "--json")
    assert [[one["row"] for one in group] for group in ran.json["equal"]] == [[1, 4]]
    assert "no digests" in ran.json["notes"][0] and ran.json["near"] == []


def test_one_group_of_nearly_all_images_is_named_as_a_wrong_threshold_or_a_collapse(ssltool, album):
    assert "the threshold is too large" in ssltool("duplicates", album, "--threshold", 2).err


def test_the_farthest_image_is_the_first_outlier(ssltool, some_rows, tmp_path):
    ran = ssltool("outliers", some_rows, "-k", 2, "-n", 2, "--json", "-o", tmp_path / "out.csv")
    first, second = ran.json["outliers"]
    assert (first["row"], first["nearest"]) == (0, "#4")
    assert first["distance"] == pytest.approx(1 - np.cos(2 - 0.03), abs=1e-6)
    assert (second["row"], second["distance"]) == (4, pytest.approx(1 - np.cos(0.05), abs=1e-6))
    assert len(list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))) == 2
    assert "lower -k" in error_message(ssltool("outliers", some_rows, "-k", 5))


def test_a_sheet_needs_the_images_that_the_rows_are_of(ssltool, folder, album, some_rows, trained, tmp_path):
    assert "does not say of which images" in error_message(ssltool("outliers", some_rows, "-k", 1, "--sheet", "x.png"))
    moved = shutil.copytree(folder, tmp_path / "moved")
    away = save_album(moved, trained / "checkpoint.pt", tmp_path / "a.pt")
    shutil.rmtree(moved)
    sheet = ["--sheet", tmp_path / "s.png"]
    assert "no such folder" in error_message(ssltool("outliers", away, *sheet))
    assert ssltool("outliers", away, *sheet, "--data", folder).code == 0
    shutil.copytree(folder, moved)
    shutil.copy(folder / "cat" / "1.png", moved / "dog" / "7.png")
    assert "is not the image that" in error_message(ssltool("neighbours", away, "dog/7", *sheet))
    (moved / "dog" / "7.png").unlink()
    assert "no such file" in error_message(ssltool("neighbours", away, "dog/7", *sheet))
    assert "--data does nothing without --sheet" in usage_message(ssltool("outliers", away, "--data", folder))
    assert "must end in" in usage_message(ssltool("outliers", away, "--sheet", "sheet.gif"))


def test_a_path_that_leads_out_of_the_folder_is_refused(ssltool, album, tmp_path):
    saved = Representations.load(album)
    saved.paths = [f"../{path}" for path in saved.paths]
    saved.save(tmp_path / "evil.pt")
    ran = ssltool("neighbours", tmp_path / "evil.pt", "../dog/7.png", "--sheet", tmp_path / "s.png")
    assert "leads out of the folder" in error_message(ran)


def test_files_of_earlier_versions_load_and_name_the_folder_of_the_run(album, tmp_path, ssltool):
    saved = Representations.load(album)
    del saved.meta["data"]
    saved.meta["config"] = saved.meta["config"] | {"data": str(album.parent / "images")}
    saved.save(tmp_path / "old.pt")
    assert ssltool("neighbours", tmp_path / "old.pt", "dog/7", "--sheet", tmp_path / "s.png").code == 0
