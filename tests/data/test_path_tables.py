"""Tables of paths and labels: .csv, .tsv and .parquet files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from helpers import TINY, error_message, same_run
from ssltool.config import DataSettings
from ssltool.data.detection import detect
from ssltool.data.images import ImageSet, open_dataset
from ssltool.errors import SSLToolError
from ssltool.reprs.representations import Representations


def opened(path: Path, split: str = "train", **settings) -> ImageSet:
    return open_dataset(DataSettings(data=str(path), **settings), split)


def write(path: Path, rows: list[tuple[object, ...]], separator: str = ",") -> Path:
    """A table of ``rows``, the names of the columns first."""
    if path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        names, *cells = rows
        columns = dict(zip(names, map(list, zip(*cells, strict=True)), strict=True))
        parquet.write_table(pa.table(columns), path)
    else:
        path.write_text("".join(separator.join(map(str, row)) + "\n" for row in rows))
    return path


@pytest.fixture
def images(tmp_path, write_images) -> Path:
    """A folder with six images of two sizes below it."""
    write_images(tmp_path / "photos" / "a", 3)
    write_images(tmp_path / "photos" / "b", 3, size=(16, 20))
    return tmp_path


NAMES = [f"photos/{folder}/{i:03d}.png" for folder in "ba" for i in (2, 0, 1)]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_table_gives_paths_labels_and_order(images, suffix):
    rows = [("id", "image", "label"), *((i, name, ["wren", "owl"][i % 2]) for i, name in enumerate(NAMES))]
    table = write(images / f"birds{suffix}", rows, "\t" if suffix == ".tsv" else ",")
    made = opened(table)
    assert detect(str(table)) == made.name == "table"
    assert made.files == tuple(NAMES) and made.paths == tuple(str(images / name) for name in NAMES)
    assert made.classes == ("owl", "wren") and made.labels.tolist() == [1, 0] * 3


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0c", "\x1d"])
def test_a_caption_may_contain_any_mark_that_is_no_end_of_a_line_in_a_file(images, mark):
    rows = [("image", "label", "caption"), *((name, i % 2, f"a bird{mark}in a tree") for i, name in enumerate(NAMES))]
    assert opened(write(images / "t.csv", rows)).labels.tolist() == [0, 1] * 3


@pytest.mark.parametrize("label", [100_001, 2**63, 2**64 - 1, 10**30])
def test_labels_that_are_no_class_numbers_are_refused(images, label):
    table = write(images / "t.csv", [("image", "label"), *((name, label) for name in NAMES)])
    with pytest.raises(SSLToolError, match="must be class numbers below"):
        opened(table)


def test_a_fine_tuned_network_reads_the_columns_of_its_table_again(images, ssltool):
    rows = [(name, i, i % 2, split) for split in ("train", "val") for i, name in enumerate(NAMES)]
    table = write(images / "t.csv", [("image", "label", "species", "split"), *rows])
    flags = ["-a", "resnet18_w2", "--pretrained", "random", "--epochs", 1, "-b", 3, "--image-size", 16, "-j", 0]
    ran = ssltool("finetune", table, "--label-column", "species", *flags, "-o", images / "ft")
    assert ran.code == 0, ran.err
    (trained,) = (images / "ft").glob("finetuned*.pt")
    ran = ssltool("save-reprs", "--pretrained", trained, "-j", 0, "-o", images / "r.pt")
    assert ran.code == 0, ran.err
    assert Representations.load(images / "r.pt").targets.tolist() == [0, 1] * 3


def test_fingerprint_is_that_of_the_paths_and_contents(images):
    table = write(images / "t.csv", [("path",), *((name,) for name in sorted(NAMES))])
    folder = opened(images, dataset_type="images")
    assert [f"photos/{name}" for name in opened(images / "photos", dataset_type="images").files] == sorted(NAMES)
    assert folder.files[:6] == tuple(sorted(NAMES)) and opened(table).fingerprint == folder.fingerprint


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separator_of_a_csv_file_is_found(images, separator):
    table = write(images / "t.csv", [("a", "file", "class"), *(("x", name, 3) for name in NAMES)], separator)
    assert opened(table).labels.tolist() == [3] * 6 and opened(table).classes == ("0", "1", "2", "3")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_are_named_and_absolute_paths_are_read(images, suffix):
    rows = [("where", "what", "label"), *((str(images / name), i % 3, i) for i, name in enumerate(NAMES))]
    table = write(images / f"t{suffix}", rows)
    with pytest.raises(SSLToolError, match=r"where, what, label.*--image-column"):
        opened(table)
    made = opened(table, image_column="where", label_column="what")
    assert made.paths == tuple(str(images / name) for name in NAMES) and made.labels.tolist() == [0, 1, 2] * 2
    with pytest.raises(SSLToolError, match="no column nothing"):
        opened(table, image_column="nothing")


def test_empty_labels_are_unlabelled_and_a_missing_column_says_how_to_name_it(images):
    table = write(images / "t.csv", [("path", "label"), *((name, "owl" if i else "") for i, name in enumerate(NAMES))])
    assert opened(table).labels.tolist() == [-1, 0, 0, 0, 0, 0]
    write(table, [("path", "kind"), *((name, "owl") for name in NAMES)])
    assert "--label-column" in opened(table).why_unlabelled and opened(table).classes == ()


def test_train_numbers_the_classes_of_the_other_splits(images):
    folder = images / "tables"
    folder.mkdir()
    for split, kinds in (("train", "owl tit"), ("validation", "tit ant"), ("test", "owl ant")):
        rows = [(f"../{name}", kind) for name, kind in zip(NAMES, kinds.split() * 3, strict=True)]
        write(folder / f"birds-{split}.csv", [("path", "label"), *rows])
    assert detect(str(folder)) == "table"
    assert opened(folder).classes == ("owl", "tit")
    assert (
        opened(folder, "val").classes == ("owl", "tit", "ant") and opened(folder, "val").labels.tolist() == [1, 2] * 3
    )
    assert opened(folder, "test").labels.tolist() == [0, 2] * 3


def of_splits(images: Path, **labels: list[object]) -> Path:
    """A folder with a table for each split, of these labels."""
    folder = images / "tables"
    folder.mkdir()
    for split, column in labels.items():
        rows = [(f"../{NAMES[i % len(NAMES)]}", label) for i, label in enumerate(column)]
        write(folder / f"{split}.csv", [("path", "label"), *rows])
    return folder


def test_a_name_among_the_numbers_of_val_is_named_and_an_empty_label_is_none(images):
    folder = of_splits(images, train=list(range(12)), val=[11, 2, "unknown", 10], test=[11, 2, "", 10])
    assert opened(folder).labels.tolist() == list(range(12))
    with pytest.raises(SSLToolError, match=r"val images: the label 'unknown' .* numbers"):
        opened(folder, "val")
    assert opened(folder, "test").labels.tolist() == [11, 2, -1, 10]


@pytest.mark.parametrize("fractions", [("train",), ("val",), ("train", "val")])
def test_whole_numbers_that_are_written_with_a_point_are_the_same_classes(images, fractions):
    """As pandas writes a column of numbers with an empty cell."""
    numbers = [10, 2, 0, 11, 1, 3]
    labels = {split: [f"{n}.0" if split in fractions else n for n in numbers] for split in ("train", "val")}
    folder = of_splits(images, **labels)
    for split in ("train", "val"):
        made = opened(folder, split)
        assert made.labels.tolist() == numbers and made.classes == tuple(map(str, range(12)))


def test_a_detected_table_is_named_with_the_flag_that_reads_all_files(images):
    write(images / "annotated.csv", [("path", "label"), *((name, 1) for name in NAMES[:2])])
    (note,) = [note for note in opened(images).notes if "detected" in note]
    assert "annotated.csv" in note and "--dataset-type images" in note
    assert not any("detected" in note for note in opened(images, dataset_type="table").notes)
    assert not any("detected" in note for note in opened(images / "annotated.csv").notes)


@pytest.mark.parametrize("odd", ["dev", ""])
def test_a_row_of_no_split_among_rows_of_splits_is_refused(images, odd):
    rows = zip(NAMES, ["train", "train", "test", odd, "test", "train"], strict=True)
    table = write(images / "t.csv", [("path", "Split"), *rows])
    with pytest.raises(SSLToolError, match=f"row 4: the column Split has '{odd}'"):
        opened(table)


def test_the_column_of_splits_is_found_in_any_case(images):
    rows = zip(NAMES, ["train", "train", "test", "test", "test", "train"], strict=True)
    table = write(images / "t.csv", [("path", "SPLIT"), *rows])
    assert [len(opened(table, split)) for split in ("train", "test")] == [3, 3]
    assert not any("not read" in note for note in opened(table).notes)


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b"])
def test_a_table_beside_images_whose_first_cell_cannot_be_a_path_is_no_table(images, path):
    write(images / "photos" / "a" / "notes.csv", [("file", "words"), (path, "1")])
    assert detect(str(images / "photos" / "a")) == "images"


def test_a_damaged_parquet_file_beside_images_is_no_dataset(images):
    (images / "photos" / "a" / "meta.parquet").write_bytes(b"no parquet")
    assert detect(str(images / "photos" / "a")) == "images"
    (images / "alone").mkdir()
    (images / "alone" / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(SSLToolError, match=r"train\.parquet"):
        opened(images / "alone")


def test_text_of_a_parquet_table_that_cannot_be_decoded_is_one_line(images):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\5\0\0\0"), pa.py_buffer(b"na\xefve")])
    parquet.write_table(pa.table({"path": pa.array(NAMES[:1]), "label": bad}), images / "t.parquet")
    with pytest.raises(SSLToolError, match=r"t\.parquet is not a readable Parquet file"):
        opened(images / "t.parquet")


def test_folder_without_table_for_val_reads_test_and_says_so(images):
    for split in ("train", "test"):
        write(images / f"{split}.csv", [("path", "label"), *((name, 1) for name in NAMES)])
    assert detect(str(images)) == "table"
    assert any("val is read from the files of test" in note for note in opened(images, "val").notes)
    (images / "test.csv").unlink()
    with pytest.raises(SSLToolError, match="no val split"):
        opened(images, "val")


def test_class_folders_with_a_table_beside_them_are_class_folders_as_before(images):
    write(images / "photos" / "train.csv", [("path", "label"), *((name[7:], 1) for name in NAMES)])
    assert detect(str(images / "photos")) == "folder"


def test_missing_images_are_named_and_can_be_skipped(images):
    table = write(images / "t.csv", [("path", "label"), *((name, 1) for name in (*NAMES[:2], "no.png", NAMES[2]))])
    with pytest.raises(SSLToolError, match=r"no\.png cannot be read"):
        opened(table)
    made = opened(table, skip_corrupt=True)
    assert made.files == tuple(NAMES[:3]) and made.left_out == {"unreadable": ("no.png",)}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("path,label\na.png\n", "line 2 has 1 cells"),
        ("path,label\n", "no rows"),
        ('path,label\n"a.png,1\n', "not a readable table"),
        ("path,label\n,1\n", "row 1: the path"),
        ("", "is empty"),
        ("path,label,label\na.png,1,2\n", "several columns label"),
    ],
)
def test_damaged_tables_are_one_line(tmp_path, text, why):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(SSLToolError, match=why) as found:
        opened(tmp_path / "t.csv")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_without_a_path_are_named_and_can_be_skipped(images, suffix):
    table = write(images / f"t{suffix}", [("path", "label"), *((name, "x") for name in (*NAMES[:2], "", NAMES[2]))])
    with pytest.raises(SSLToolError, match="row 3"):
        opened(table)
    made = opened(table, skip_corrupt=True)
    assert made.files == tuple(NAMES[:3]) and made.left_out == {"unreadable": (f"t{suffix}, row 3",)}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_column_of_splits_chooses_the_rows(images, suffix):
    words = ["train", "Valid", "train", "test", "valid", "train"]
    rows = list(zip(NAMES, ["owl", "ant", "tit", "owl", "tit", "owl"], words, strict=True))
    table = write(images / f"t{suffix}", [("path", "label", "split"), *rows])
    for split, word in (("train", "train"), ("val", "valid"), ("test", "test")):
        made = opened(table, split)
        assert made.files == tuple(name for name, _, other in rows if other.lower() == word)
        kinds = [kind for _, kind, other in rows if other.lower() == word]
        assert [made.classes[label] for label in made.labels] == kinds and made.classes[:2] == ("owl", "tit")
    write(table, [("path", "label", "split"), *((name, kind, "train") for name, kind, _ in rows)])
    with pytest.raises(SSLToolError, match="no val split"):
        opened(table, "val")
    write(table, [("path", "label", "split"), *((name, kind, f"fold {i}") for i, (name, kind, _) in enumerate(rows))])
    assert len(opened(table)) == 6 and any("not read: split" in note for note in opened(table).notes)


def test_the_columns_that_are_read_and_that_are_not_are_named(images):
    table = write(images / "t.csv", [("path", "kind", "class"), *((name, "a", 1) for name in NAMES)])
    assert "images are read from path, labels from class; not read: kind" in opened(table).notes
    with pytest.raises(SSLToolError, match="its columns are path, kind, class"):
        opened(table, label_column="species")
    with pytest.raises(SSLToolError, match="is the column of images"):
        opened(table, label_column="path")


def test_damaged_parquet_and_missing_pyarrow_are_one_line(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 but no table")
    with pytest.raises(SSLToolError, match="not a readable Parquet file"):
        detect(str(tmp_path / "t.parquet"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SSLToolError, match=r"pip install 'ssltool\[parquet\]'"):
        detect(str(tmp_path / "t.parquet"))


def test_column_flags_are_refused_where_they_have_no_effect(images):
    with pytest.raises(SSLToolError, match="--label-column has no effect with folder"):
        opened(images / "photos", label_column="label")


def test_run_on_a_table_is_evaluated_with_its_columns_and_equals_one_on_the_folder(images, ssltool, tmp_path):
    flags = [*TINY, "-b", 4, "--device", "cpu", "-j", 0, "--monitor-every", 0, "--epochs", 1]
    rows = [(name, name.split("/")[1]) for name in sorted(NAMES)]
    table = write(images / "t.csv", [("where", "kind"), *rows])
    columns = ["--image-column", "where", "--label-column", "kind"]
    assert ssltool("pretrain", table, *columns, *flags, "-o", tmp_path / "one").code == 0
    assert ssltool("pretrain", images / "photos", *flags, "-o", tmp_path / "two").code == 0
    assert same_run(tmp_path / "one", tmp_path / "two")
    reprs = tmp_path / "r.pt"
    saved = ssltool(
        "save-reprs", "--pretrained", tmp_path / "one" / "checkpoint.pt", "--device", "cpu", "-o", reprs, "--json"
    )
    assert saved.code == 0, saved.err
    assert json.loads(saved.out)["files"][0]["found"]["classes"] == 2
    sheet = ["--sheet", tmp_path / "s.html", "-k", 1]
    ran = ssltool("neighbours", reprs, NAMES[0], *sheet)
    assert ran.code == 0 and NAMES[0] in ran.out, ran.err
    table.unlink()
    assert "no such folder" in error_message(ssltool("neighbours", reprs, NAMES[0], *sheet))
    assert torch.load(reprs, weights_only=True)["paths"] == sorted(NAMES)


def test_a_folder_of_tables_whose_images_are_missing_says_how_tables_are_recognised(tmp_path):
    write(tmp_path / "part-0.csv", [("path", "label"), ("no.png", 1)])
    with pytest.raises(SSLToolError, match="--dataset-type table"):
        opened(tmp_path)
