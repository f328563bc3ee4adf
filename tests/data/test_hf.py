"""Datasets of the library ``datasets``, written by it."""

from __future__ import annotations

import io
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import TINY, same_run
from ssltool.config import CacheConfig, DataSettings
from ssltool.data.detection import absolute, detect
from ssltool.data.images import ImageSet, open_dataset
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET
from ssltool.errors import SSLToolError
from ssltool.runs.data_preview import pixels
from ssltool.stages.cache import run as run_cache

datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning")

RNG = np.random.default_rng(0)
PIXELS = [RNG.integers(0, 256, (9 + i % 2, 8, 3), np.uint8) for i in range(10)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The library's cache, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def opened(path: object, split: str = "train", **settings) -> ImageSet:
    return open_dataset(DataSettings(data=str(path), **settings), split)


def png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def dataset(rows=range(10), names=("cat", "dog", "owl"), paths=True, **columns):
    images = [{"bytes": png(PIXELS[i]), "path": f"{i}.png" if paths else None} for i in rows]
    features = datasets.Features({"photo": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    values = {"photo": images, "label": [i % 2 for i in rows]}
    made = datasets.Dataset.from_dict(values, features=features)
    for name, column in columns.items():
        made = made.add_column(name, column)
    return made


def same(images: ImageSet, rows) -> bool:
    shown = [pixels(images, row) for row in range(len(images))]
    return all(np.array_equal(a, PIXELS[i]) for a, i in zip(shown, rows, strict=True))


@pytest.mark.parametrize("kind", ["save_to_disk", "parquet file", "parquet folder", "hf:"])
def test_images_labels_classes_and_names_are_those_of_the_dataset(tmp_path, kind):
    place = tmp_path / "birds"
    if kind == "save_to_disk":
        dataset().save_to_disk(place)
    else:
        place.mkdir()
        dataset().to_parquet(place / "train-00000-of-00001.parquet")
        place = {"parquet file": place / "train-00000-of-00001.parquet", "hf:": f"hf:{place}"}.get(kind, place)
    made = opened(place)
    assert detect(str(place)) == made.name == "hf" and len(made) == 10
    assert made.classes == ("cat", "dog", "owl") and made.labels.tolist() == [0, 1] * 5
    assert made.files == tuple(f"{i}.png" for i in range(10)) and same(made, range(10))
    assert made.images is None and "paths" not in repr(made.notes)


def test_splits_are_those_of_the_dataset_and_val_may_be_test(tmp_path):
    parts = {"train": dataset(range(6)), "test": dataset([9, 7])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "two")
    assert same(opened(tmp_path / "two", "val"), [9, 7]) and same(opened(tmp_path / "two", "test"), [9, 7])
    assert any("val is read from the split test" in note for note in opened(tmp_path / "two", "val").notes)
    datasets.DatasetDict({**parts, "validation": dataset([8])}).save_to_disk(tmp_path / "three")
    assert same(opened(tmp_path / "three", "val"), [8])
    (tmp_path / "files").mkdir()
    for name, part in parts.items():
        part.to_parquet(tmp_path / "files" / f"{name}-00000.parquet")
    assert same(opened(tmp_path / "files"), range(6)) and same(opened(tmp_path / "files", "val"), [9, 7])
    assert same(opened(f"hf:{tmp_path / 'files'}:test"), [9, 7])
    with pytest.raises(SSLToolError, match="leave :test out"):
        opened(f"hf:{tmp_path / 'files'}:test", "val")


def test_fingerprint_is_that_of_files_with_these_names_and_bytes(tmp_path):
    dataset().save_to_disk(tmp_path / "d")
    (tmp_path / "files").mkdir()
    for i, values in enumerate(PIXELS):
        (tmp_path / "files" / f"{i}.png").write_bytes(png(values))
    assert opened(tmp_path / "d").fingerprint == opened(tmp_path / "files").fingerprint


def test_selected_and_shuffled_rows_are_read_in_their_order(tmp_path):
    dataset().select([7, 2, 5]).save_to_disk(tmp_path / "d")
    made = opened(tmp_path / "d")
    assert same(made, [7, 2, 5]) and same(made.select(np.array([2, 0])), [5, 7])
    again = pickle.loads(pickle.dumps(made.paths))
    assert [image.read() for image in again] == [png(PIXELS[i]) for i in (7, 2, 5)]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_read_rows_of_the_mapped_file(tmp_path, workers):
    dataset().save_to_disk(tmp_path / "d")
    loader = Loader(opened(tmp_path / "d"), IMAGENET.at(8), torch.device("cpu"), workers)
    rows = torch.cat([batch.rows for batch in loader.evaluate(3)])
    loader.close()
    assert rows.tolist() == list(range(10))


def test_names_that_are_missing_or_not_unique_are_numbers(tmp_path):
    dataset(paths=False).save_to_disk(tmp_path / "d")
    made = opened(tmp_path / "d")
    assert made.files is None and str(made.paths[3]) == f"{tmp_path / 'd'}, image 3"


def test_columns_of_text_and_numbers_are_labels_and_none_says_how_to_name_it(tmp_path):
    kinds = [None if i == 0 else "ab"[i % 2] for i in range(10)]
    dataset(kind=kinds, number=list(range(10))).save_to_disk(tmp_path / "d")
    made = opened(tmp_path / "d", label_column="kind")
    assert made.classes == ("a", "b") and made.labels.tolist() == [-1, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert opened(tmp_path / "d", label_column="number").labels.tolist() == list(range(10))
    dataset().remove_columns("label").save_to_disk(tmp_path / "bare")
    assert "--label-column" in opened(tmp_path / "bare").why_unlabelled
    with pytest.raises(SSLToolError, match="no column nothing"):
        opened(tmp_path / "d", image_column="nothing")


def labelled(values: list[object], names: list[str] | None):
    """Rows whose labels are numbers of ``names``, or values without names."""
    label = datasets.Value("string" if isinstance(values[0], str) else "int64")
    features = datasets.Features(
        {"photo": datasets.Image(), "label": datasets.ClassLabel(names=names) if names else label}
    )
    photos = [{"bytes": png(PIXELS[i]), "path": None} for i in range(len(values))]
    return datasets.Dataset.from_dict({"photo": photos, "label": values}, features=features)


@pytest.mark.parametrize(
    ("val", "names"),
    [
        ([0, 1, 2, -1], ["bee", "cat", "dog", "ant"]),
        (["bee", "cat", "dog", ""], None),
        ([2, 0, 3, -1], ["cat", "ant", "bee", "dog"]),
        ([2, 0, 3, -1], None),
    ],
    ids=["other numbers", "text", "as in train, and a class more", "numbers only"],
)
def test_the_class_names_of_train_number_those_of_the_other_splits(tmp_path, val, names):
    train = labelled([0, 1, 2], ["cat", "ant", "bee"])
    datasets.DatasetDict({"train": train, "test": labelled(val, names)}).save_to_disk(tmp_path / "d")
    assert opened(tmp_path / "d").labels.tolist() == [0, 1, 2]
    if names is None and val[0] == 2:
        with pytest.raises(SSLToolError, match="a label is 3, and the train split has 3 classes"):
            opened(tmp_path / "d", "val")
        return
    made = opened(tmp_path / "d", "val")
    assert made.labels.tolist() == [2, 0, 3, -1] and made.classes == ("cat", "ant", "bee", "dog")


def test_text_in_train_numbers_the_class_names_of_val(tmp_path):
    parts = {"train": labelled(["dog", "ant"], None), "test": labelled([0, 1], ["dog", "ant"])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    assert opened(tmp_path / "d", "val").labels.tolist() == opened(tmp_path / "d").labels.tolist() == [1, 0]


def test_a_folder_of_parquet_files_with_images_in_a_column_of_any_name_is_found(tmp_path):
    for split in ("train", "test"):
        dataset().rename_column("photo", "image").to_parquet(tmp_path / "d" / f"{split}.parquet")
    assert detect(str(tmp_path / "d")) == "hf" and len(opened(tmp_path / "d", "val")) == 10


def test_rows_that_refer_to_files_are_read_from_them(tmp_path, write_images):
    paths = [*write_images(tmp_path / "a", 2), *write_images(tmp_path / "a" / "b", 1, size=(7, 7))]
    made = datasets.Dataset.from_dict({"image": list(map(str, paths))}).cast_column("image", datasets.Image())
    made.save_to_disk(tmp_path / "d")
    assert [image.read() for image in opened(tmp_path / "d").paths] == [path.read_bytes() for path in paths]


def test_corrupt_and_empty_images_are_named_and_can_be_skipped(tmp_path):
    cells = [{"bytes": png(PIXELS[0]), "path": "a"}, {"bytes": b"no image", "path": "b"}, None]
    made = datasets.Dataset.from_dict({"image": cells}, features=datasets.Features({"image": datasets.Image()}))
    made.save_to_disk(tmp_path / "d")
    with pytest.raises(SSLToolError, match="image 2 cannot be read: it is empty"):
        opened(tmp_path / "d")
    made = opened(tmp_path / "d", skip_corrupt=True)
    assert made.index.tolist() == [0] and sum(map(len, made.left_out.values())) == 2


def test_code_in_a_folder_is_not_executed(tmp_path):
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(SSLToolError, match="cannot be loaded") as found:
        opened(f"hf:{tmp_path / 'evil'}")
    assert "\n" not in str(found.value) and not (tmp_path / "ran").exists()


def test_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SSLToolError, match=r"pip install 'ssltool\[hf\]'"):
        opened("hf:birds")
    monkeypatch.setitem(sys.modules, "datasets", type("Old", (), {"__version__": "2.14.0"}))
    with pytest.raises(SSLToolError, match="may run code"):
        opened("hf:birds")


def test_a_run_on_a_dataset_equals_one_on_files_and_later_stages_find_it(tmp_path, ssltool):
    dataset().to_parquet(tmp_path / "train.parquet")
    for i, values in enumerate(PIXELS):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / f"{i}.png").write_bytes(png(values))
    flags = [*TINY, "-b", 4, "--device", "cpu", "-j", 0, "--monitor-every", 0, "--epochs", 1]
    for place, run in (("train.parquet", "one"), ("files", "two")):
        assert ssltool("pretrain", tmp_path / place, *flags, "-o", tmp_path / run).code == 0
    assert same_run(tmp_path / "one", tmp_path / "two")
    network = ["--pretrained", tmp_path / "one" / "checkpoint.pt", "--device", "cpu"]
    saved = ssltool("save-reprs", *network, "-o", tmp_path / "r.pt", "--json")
    assert saved.code == 0, saved.err
    assert json.loads(saved.out)["files"][0]["found"]["layout"] == "hf"
    ran = ssltool("neighbours", tmp_path / "r.pt", "3.png", "--sheet", tmp_path / "s.html", "-k", 1)
    assert ran.code == 0 and Path(tmp_path / "s.html").exists(), ran.err


def test_a_dataset_without_names_is_cached_and_read_from_its_cache_alone(tmp_path):
    dataset(paths=False).save_to_disk(tmp_path / "d")
    source, folder = tmp_path / "d", tmp_path / "cache"
    run_cache(CacheConfig(data=str(source), out=str(folder), size=16))
    for made in (opened(folder), opened(source, cache=str(folder))):
        assert made.files is None and made.fingerprint == opened(source).fingerprint
        assert all((made.cached.pixels(i) == PIXELS[i]).all() for i in range(10))


def test_files_of_a_dataset_without_names_load_after_rows_were_skipped(tmp_path, ssltool):
    cells = [{"bytes": b"no image" if i == 3 else png(PIXELS[i]), "path": None} for i in range(10)]
    made = datasets.Dataset.from_dict({"image": cells}, features=datasets.Features({"image": datasets.Image()}))
    made.save_to_disk(tmp_path / "d")
    flags = ["--skip-corrupt", *TINY, "-b", 4, "--device", "cpu", "-j", 0, "--monitor-every", 0, "--epochs", 1]
    ran = ssltool("pretrain", tmp_path / "d", *flags, "-o", tmp_path / "run")
    assert ran.code == 0, ran.err
    network = ["--pretrained", tmp_path / "run" / "checkpoint.pt", "--device", "cpu"]
    saved = ssltool("save-reprs", tmp_path / "d", *network, "--skip-corrupt", "-o", tmp_path / "r.pt")
    assert saved.code == 0, saved.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    files = [torch.load(tmp_path / name, weights_only=True) for name in ("run/checkpoint.pt", "r.pt")]
    for found in (config["found"], files[0]["config"]["found"], files[1]["meta"]["found"]):
        assert found["skipped"]["corrupt"] == {"count": 1, "first": ["3"]}


def test_a_split_of_a_name_is_found_by_the_names_of_splits(tmp_path, monkeypatch):
    for split, rows in (("train", range(6)), ("validation", range(6, 10))):
        dataset(rows).to_parquet(tmp_path / "d" / "data" / f"{split}-0.parquet")
    assert same(opened(f"hf:{tmp_path / 'd'}:val"), range(6, 10))
    with pytest.raises(SSLToolError, match="Unknown split") as found:
        opened(f"hf:{tmp_path / 'd'}:validate")
    assert "network" not in str(found.value)


def test_a_folder_that_is_named_is_saved_as_an_absolute_path(tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path)
    assert absolute("hf:d:val") == f"hf:{tmp_path / 'd'}:val" and absolute("hf:d") == f"hf:{tmp_path / 'd'}"
    assert absolute("hf:owner/name:val") == "hf:owner/name:val" and absolute("d") == str(tmp_path / "d")
