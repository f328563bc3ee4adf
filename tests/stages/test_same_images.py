"""Images and classes of two files: the same only if fingerprint and number, or content, are; classes by their names."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import error_message, usage_message
from ssltool.checkpoints.probe import Probe
from ssltool.config import KnnConfig
from ssltool.errors import SSLToolError
from ssltool.reprs.representations import Representations
from ssltool.stages import knn

CPU = ["--device", "cpu", "--json"]


@pytest.fixture
def write(tmp_path):
    """Saves a row of its own colour for each name: ``write("a.pt", ["ant", "bee"]) -> path``."""

    def save(name, names, classes=None, *, folder="here", stored=None):
        classes = sorted(set(names)) if classes is None else classes
        rows = torch.stack([colour(one) for one in names])
        meta = {"dataset": "folder", "split": "train", "classes": stored or classes, "fingerprint": folder}
        targets = torch.tensor([classes.index(one) if one in classes else -1 for one in names])
        paths = [f"{one}/{i}.png" for i, one in enumerate(names)]
        digests = torch.tensor([zlib.crc32(f"{folder} {path}".encode()) for path in paths])
        Representations(rows, targets, torch.arange(len(names)), meta, paths, digests).save(tmp_path / name)
        return tmp_path / name

    return save


def colour(name: str) -> torch.Tensor:
    """A direction for each name."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.nn.functional.normalize(torch.randn(40, generator=generator), dim=0)


TWENTY = [f"class {i:02d}" for i in range(20)]


def test_images_of_two_folders_with_one_layout_and_equal_numbers_are_different_images(ssltool, write):
    """Two folders of 20 classes with one image each."""
    document = ssltool("knn", write("a.pt", TWENTY), write("b.pt", TWENTY, folder="there"), "-k", 1, *CPU).json
    assert (document["accuracy"], document["excluded"], document["notes"][1:]) == (1.0, 0, [])
    same = ssltool("knn", write("a.pt", TWENTY), write("b.pt", TWENTY), "-k", 1, *CPU).json
    assert (same["accuracy"], same["excluded"]) == (0.0, 20)


def test_a_probe_takes_train_and_val_of_two_folders(ssltool, write, tmp_path):
    train, val = write("a.pt", TWENTY * 2), write("b.pt", TWENTY, folder="there")
    flags = ["--solver", "lbfgs", "-o", tmp_path / "probe"]
    assert ssltool("lincls", "--reprs", train, val, *flags, *CPU).json["acc1"] == 1.0
    ran = ssltool("lincls", "--reprs", train, write("c.pt", TWENTY), *flags, "--overwrite", *CPU)
    assert "20 of 20 val rows" in error_message(ran)


def test_merged_files_of_two_folders_have_no_repeated_images(ssltool, write):
    a, b, c = write("a.pt", TWENTY), write("b.pt", TWENTY, folder="there"), write("c.pt", TWENTY)
    notes = ssltool("collapse", a, b, "--merge", *CPU).json["files"][0]["notes"]
    assert not [note for note in notes if "repeated" in note]
    notes = ssltool("collapse", a, c, "--merge", *CPU).json["files"][0]["notes"]
    assert "repeated images in the merged files: 20" in notes


def test_files_without_a_fingerprint_are_compared_as_before_with_a_note(ssltool, write, tmp_path):
    a, b = write("a.pt", TWENTY * 2), write("b.pt", TWENTY, folder=None)
    document = ssltool("knn", a, b, "-k", 1, *CPU).json
    assert document["excluded"] == 20 and "no fingerprint" in " ".join(document["notes"])
    ran = ssltool("lincls", "--reprs", a, b, "--solver", "lbfgs", "-o", tmp_path / "probe", *CPU)
    assert "no fingerprint" in error_message(ran)
    notes = ssltool("collapse", a, b, "--merge", *CPU).json["files"][0]["notes"]
    assert any("no fingerprint" in note and note.endswith(": 20") for note in notes)


def test_images_of_equal_content_are_the_same_where_asked(ssltool, write, tmp_path):
    a, b = write("a.pt", TWENTY * 2), write("b.pt", TWENTY, folder="there")
    copy = Representations.load(b)
    copy.digests = Representations.load(a).digests[:20].clone()
    copy.digests[10:] += 1
    copy.save(b)
    assert ssltool("knn", a, b, "-k", 1, *CPU).json["excluded"] == 0
    document = ssltool("knn", a, b, "-k", 1, "--same-images", "content", *CPU).json
    assert document["excluded"] == 10 and "same content" in " ".join(document["notes"])
    notes = ssltool("collapse", a, b, "--merge", "--same-images", "content", *CPU).json["files"][0]["notes"]
    assert any(note.startswith("repeated images") and note.endswith(": 10") for note in notes)
    flags = ["--solver", "lbfgs", "-o", tmp_path / "probe", "--same-images", "content"]
    assert "10 of 20 val rows" in error_message(ssltool("lincls", "--reprs", a, b, *flags, *CPU))
    copy.digests = None
    copy.save(b)
    assert "digests" in error_message(ssltool("knn", a, b, "--same-images", "content", *CPU))
    assert ssltool("collapse", a, "--same-images", "content").code == 2


@pytest.mark.parametrize("val", [["ant", "cat"], ["bee", "cat"], ["cat"], ["cat", "ant", "bee"], ["bee", "cat", "dog"]])
def test_classes_are_compared_by_name(ssltool, write, val):
    train = write("a.pt", ["ant", "bee", "cat"] * 2)
    ran = ssltool("knn", train, write("b.pt", val, folder="val"), "-k", 1, "--per-class", "--confusion", *CPU)
    known = [name for name in val if name != "dog"]
    assert ran.json["accuracy"] == len(known) / len(val)
    assert [one["class"] for one in ran.json["per_class"]] == sorted(val)
    assert [one["accuracy"] for one in ran.json["per_class"]] == [float(name != "dog") for name in sorted(val)]
    assert set(ran.json["confusion"]["classes"]) >= set(val)
    absent = {"ant", "bee", "cat"} - set(val)
    assert all(name in " ".join(ran.json["notes"]) for name in absent | {"dog"} & set(val))
    text = ssltool("knn", train, write("b.pt", val, folder="val"), "-k", 1, "--per-class", "--device", "cpu").out
    assert all(any(line.startswith(name) for line in text.splitlines()) for name in val)


def test_the_bank_says_which_classes_it_lacks_without_names_too(ssltool, write_reprs):
    bank = write_reprs("bank.pt", torch.eye(2), [0, 1])
    queries = write_reprs("queries.pt", torch.tensor([[1.0, 0.1], [0.1, 1.0]]), [0, 9])
    (note,) = ssltool("knn", bank, queries, "-k", 1, *CPU).json["notes"]
    assert "lacks" in note and "(9)" in note and "1 of 2 rows" in note


def test_missing_names_with_other_counts_are_refused_and_number_compares_numbers(ssltool, write):
    train, val = write("a.pt", ["ant", "bee", "cat"] * 2), write("b.pt", ["ant", "bee"], ["ant", "bee"], folder="val")
    bare = write("c.pt", ["ant", "bee"], ["ant", "bee"], folder="val", stored=["0", "1"])
    assert "--labels-by number" in error_message(ssltool("knn", train, bare, *CPU))
    assert ssltool("knn", train, bare, "-k", 1, "--labels-by", "number", *CPU).json["accuracy"] == 1.0
    assert ssltool("knn", train, val, "-k", 1, "--labels-by", "number", *CPU).json["accuracy"] == 1.0
    swapped = write("d.pt", ["ant", "bee"], ["bee", "ant"], folder="val")
    assert ssltool("knn", train, swapped, "-k", 1, "--labels-by", "number", *CPU).json["accuracy"] == 0.0
    assert ssltool("knn", train, swapped, "-k", 1, *CPU).json["accuracy"] == 1.0


@pytest.mark.parametrize("solver", [["--solver", "lbfgs"], ["--epochs", "30", "--lr", "30"]])
def test_a_probe_knows_the_names_of_its_classes(ssltool, write, tmp_path, solver):
    train, val = write("a.pt", ["ant", "bee", "cat"] * 4), write("b.pt", ["cat", "bee"], folder="val")
    found = ssltool("lincls", "--reprs", train, val, *solver, "-o", tmp_path / "probe", *CPU).json
    assert found["acc1"] == 1.0 and "(ant)" in " ".join(found["notes"])
    assert Probe.load(tmp_path / "probe" / "probe.pt").class_names == ["ant", "bee", "cat"]
    other = write("c.pt", ["bee", "cat", "cat", "dog"], folder="other")
    flags = ["--resume", tmp_path / "probe" / "probe.pt", "--evaluate", *CPU]
    ran = ssltool("lincls", "--reprs", train, other, *flags)
    assert ran.json["acc1"] == 0.75 and "(dog)" in ran.err and "1 of 4 rows" in ran.err


def test_a_probe_of_folders_with_numbers_as_names_knows_them(ssltool, write, tmp_path):
    """Otherwise val rows of the classes 1 and 2 would be an error, and those of 7, 8 and 9 be taken for 0, 1 and 2."""
    train, val = write("a.pt", ["0", "1", "2"] * 4), write("b.pt", ["1", "2"], folder="val")
    assert ssltool("lincls", "--reprs", train, val, "--solver", "lbfgs", "-o", tmp_path / "probe").code == 0
    flags = ["--resume", tmp_path / "probe" / "probe.pt", "--evaluate", *CPU]
    assert ssltool("lincls", "--reprs", train, val, *flags).json["acc1"] == 1.0
    other = write("c.pt", ["0", "1", "2"], ["0", "1", "2"], folder="other", stored=["7", "8", "9"])
    assert "no class in common" in error_message(ssltool("lincls", "--reprs", train, other, *flags))


def test_a_probe_does_not_take_the_names_of_the_val_classes(ssltool, write, tmp_path):
    train = write("a.pt", ["ant", "bee", "cat"] * 4, stored=["0", "1", "2"])
    val = write("b.pt", ["ant", "bee", "cat"], folder="val")
    assert ssltool("lincls", "--reprs", train, val, "--solver", "lbfgs", "-o", tmp_path / "probe").code == 0
    flags = ["--resume", tmp_path / "probe" / "probe.pt", "--evaluate", *CPU]
    ran = ssltool("lincls", "--reprs", train, val, *flags)
    assert ran.json["acc1"] == 1.0 and "no names" in ran.err


def test_a_probe_of_an_earlier_version_has_no_names(ssltool, write, tmp_path):
    train, val = write("a.pt", ["ant", "bee", "cat"] * 4), write("b.pt", ["ant", "bee", "cat"], folder="val")
    ssltool("lincls", "--reprs", train, val, "--solver", "lbfgs", "-o", tmp_path / "probe")
    path = tmp_path / "probe" / "probe.pt"
    contents = torch.load(path, weights_only=True)
    del contents["class_names"]
    torch.save(contents, path)
    flags = ["--resume", path, "--evaluate", *CPU]
    ran = ssltool("lincls", "--reprs", train, val, *flags)
    assert ran.json["acc1"] == 1.0 and "no names" in ran.err
    two = write("c.pt", ["bee", "cat"], folder="val")
    assert "--labels-by number" in error_message(ssltool("lincls", "--reprs", train, two, *flags))


def knn_accuracy(config: KnnConfig) -> tuple[float | None, str]:
    """The accuracy, or why there is none."""
    try:
        return knn.run(config)["accuracy"], ""
    except SSLToolError as error:
        return None, str(error)


@pytest.mark.parametrize(
    "flags", [["--labels-by", "number"], ["--same-images", "content"], ["--pool", "mean"]], ids=lambda flags: flags[0]
)
def test_the_flags_of_files_do_nothing_without_files(ssltool, flags):
    assert flags[0] in usage_message(ssltool("lincls", "--pretrained", "absent.pt", *flags))


NAMES = st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=6, unique=True)


@settings(max_examples=30)
@given(NAMES, st.data())
def test_knn_of_separable_colours_is_right_for_any_names_in_any_order(tmp_path_factory, names, data):
    """Any set of names, any part of them in val, in any order of the numbers: all right, or an error says why."""
    folder: Path = tmp_path_factory.mktemp("names")
    part = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    for name, chosen, classes in (("a.pt", names, data.draw(st.permutations(names))), ("b.pt", part, part)):
        rows = torch.eye(len(names))[[names.index(one) for one in chosen]]
        targets = torch.tensor([classes.index(one) for one in chosen])
        meta = {"dataset": "folder", "split": "train", "classes": list(classes), "fingerprint": name}
        Representations(rows, targets, torch.arange(len(rows)), meta).save(folder / name)
    config = KnnConfig(bank=str(folder / "a.pt"), queries=str(folder / "b.pt"), k=1, device="cpu")
    accuracy, refusal = knn_accuracy(config)
    if refusal:
        bare = [list(found) == list(map(str, range(len(found)))) for found in (part, sorted(names))]
        assert "--labels-by number" in refusal and (any(bare) or len(names) == 1)
    else:
        assert accuracy == 1.0
