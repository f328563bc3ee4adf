"""WebDataset's tar shards, as the library writes them and by hand."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import TINY, same_run
from ssltool.config import DataSettings
from ssltool.data.detection import detect
from ssltool.data.images import ImageSet, open_dataset
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET
from ssltool.errors import SSLToolError

SHADES = np.arange(12, dtype=np.uint8) * 20


def opened(path: object, split: str = "train", **settings) -> ImageSet:
    return open_dataset(DataSettings(data=str(path), **settings), split)


def encoded(shade: int, suffix: str = "png") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (9, 7 + shade % 40 // 20), (int(shade),) * 3).save(stream, {"jpg": "JPEG"}.get(suffix, suffix))
    return stream.getvalue()


def shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def samples(numbers, **more) -> dict[str, bytes]:
    members = {}
    for i in numbers:
        members[f"{i:04d}.png"] = encoded(SHADES[i])
        members |= {f"{i:04d}.{name}": text(i).encode() for name, text in more.items()}
    return members


def shades(images: ImageSet) -> list[int]:
    loader = Loader(images, IMAGENET.at(8), torch.device("cpu"))
    values = torch.cat([batch.views[0] for batch in loader.evaluate(5)])[:, 0, 4, 4]
    return ((values * 0.229 + 0.485) * 255).round().int().tolist()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the library leaves shards open
def test_shards_of_the_library_give_the_samples_that_it_reads(tmp_path):
    wds = pytest.importorskip("webdataset", reason="the package webdataset is not installed")
    with wds.ShardWriter(str(tmp_path / "birds-%06d.tar"), maxcount=5, verbose=0) as writer:
        for i, shade in enumerate(SHADES):
            image = Image.new("RGB", (9, 8 + i % 2), (int(shade),) * 3)
            writer.write({"__key__": f"set/{i:05d}", "png": image, "cls": i % 3, "json": {"kind": "ab"[i % 2]}})
    pattern = str(tmp_path / "birds-{000000..000002}.tar")
    read = list(wds.WebDataset(pattern, shardshuffle=False).decode("rgb8"))
    for data in (tmp_path, pattern):
        made = opened(data)
        assert detect(str(data)) == made.name == "webdataset"
        assert made.labels.tolist() == [sample["cls"] for sample in read] and made.classes == ("0", "1", "2")
        assert shades(made) == [int(sample["png"][0, 0, 0]) for sample in read] == SHADES.tolist()
        assert made.files[5] == f"birds-000001.tar/{read[5]['__key__']}.png"
        assert opened(data, label_column="kind").classes == ("a", "b")
    assert opened(pattern).fingerprint == opened(tmp_path).fingerprint
    assert opened(tmp_path / "birds-000002.tar").labels.tolist() == [1, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_are_read_at_random_by_any_number_of_workers(tmp_path, workers):
    for number in range(3):
        shard(tmp_path / f"{number}.tar", samples(range(4 * number, 4 * number + 4), cls=str))
    images, rows = opened(tmp_path), np.array([11, 0, 7, 3, 7])
    assert images.labels.tolist() == list(range(12)) and images.images is None
    loader = Loader(images, IMAGENET.at(8), torch.device("cpu"), workers)
    batches = list(loader.evaluate(2, rows))
    loader.close()
    values = torch.cat([batch.views[0] for batch in batches])[:, 0, 4, 4]
    assert ((values * 0.229 + 0.485) * 255).round().int().tolist() == SHADES[rows].tolist()


def test_splits_are_in_the_names_of_shards_or_folders(tmp_path):
    for name, numbers in (("a-train-0", range(6)), ("a-train-1", range(6, 8)), ("a-val-0", range(8, 12))):
        shard(tmp_path / "names" / f"{name}.tar", samples(numbers, txt=lambda i: f"c{i % 4}"))
        folder, _, number = name[2:].partition("-")
        shard(tmp_path / "folders" / folder / f"{number}.tar", samples(numbers, txt=lambda i: f"c{i % 4}"))
    for place in ("names", "folders"):
        train, val = (opened(tmp_path / place, split, label_column="txt") for split in ("train", "val"))
        assert (shades(train), shades(val)) == (SHADES[:8].tolist(), SHADES[8:].tolist())
        assert train.classes == val.classes == ("c0", "c1", "c2", "c3")
        assert val.labels.tolist() == [0, 1, 2, 3]
    assert "folders/" not in opened(tmp_path / "folders").files[0]


def test_a_tar_with_labels_is_a_shard_and_one_without_a_folder(tmp_path):
    assert detect(str(shard(tmp_path / "a.tar", samples(range(3), cls=str)))) == "webdataset"
    assert detect(str(shard(tmp_path / "b.tar", samples(range(3))))) == "images"


def test_samples_without_label_are_unlabelled_and_without_image_left_out(tmp_path):
    members = samples(range(2), cls=str) | {"0005.cls": b"1", "0006.png": encoded(9), ".hidden.png": b"x"}
    made = opened(shard(tmp_path / "a.tar", members))
    assert made.labels.tolist() == [0, 1, -1] and made.files == ("0000.png", "0001.png", "0006.png")
    assert made.left_out == {"sample without an image": ("a.tar/0005",)}
    bare = opened(shard(tmp_path / "b.tar", samples(range(2))), dataset_type="webdataset")
    assert "--label-column" in bare.why_unlabelled


def test_several_images_of_a_sample_need_a_name(tmp_path):
    members = {"1.jpg": encoded(40, "jpg"), "1.mask.png": encoded(80), "1.cls": b"0"}
    path = shard(tmp_path / "a.tar", members)
    with pytest.raises(SSLToolError, match=r"sample 1 has several images: jpg, mask\.png.*--image-column"):
        opened(path)
    assert opened(path, image_column="mask.png").files == ("1.mask.png",)


def test_json_field_may_be_a_number_or_a_name(tmp_path):
    record = {"id": lambda i: json.dumps({"number": i % 2, "name": "xy"[i % 2], "nested": {}})}
    path = shard(tmp_path / "a.tar", samples(range(4), json=record["id"]))
    assert opened(path, label_column="number").labels.tolist() == [0, 1, 0, 1]
    assert opened(path, label_column="name").classes == ("x", "y")
    with pytest.raises(SSLToolError, match="a label is"):
        opened(path, label_column="nested")


def test_a_label_that_no_sample_has_is_an_error_that_lists_extensions_and_fields(tmp_path):
    path = shard(tmp_path / "a.tar", samples(range(4), cls=str, json=lambda i: json.dumps({"bird": i, "none": None})))
    with pytest.raises(SSLToolError) as found:
        opened(path, label_column="species")
    assert {"png", "cls", "json", "bird"} <= {*str(found.value).replace(",", "").split()}
    assert opened(path, label_column="none").why_unlabelled


def test_a_label_that_is_no_text_is_an_error_that_names_the_sample(tmp_path):
    path = shard(tmp_path / "a.tar", samples(range(3), cls=str) | {"0007.png": encoded(7), "0007.cls": b"\xff\xfe"})
    with pytest.raises(SSLToolError, match="sample 0007"):
        opened(path)


def test_the_extensions_that_are_read_and_that_are_not_are_named(tmp_path):
    path = shard(tmp_path / "a.tar", samples(range(3), cls=str, json=lambda i: json.dumps({"bird": i}), txt=str))
    assert "images are read from png, labels from cls; not read: json, txt" in opened(path).notes
    note = "images are read from png, labels from bird of json; not read: cls, txt"
    assert note in opened(path, label_column="bird").notes


@pytest.mark.parametrize("extension", ["img", "picture"])
def test_samples_with_a_class_are_recognised_whatever_the_extension_of_the_image(tmp_path, extension):
    members = {f"{i}.{end}": content for i in range(3) for end, content in (("cls", b"1"), (extension, encoded(i)))}
    path = shard(tmp_path / "s" / "a.tar", members)
    assert detect(str(path)) == detect(str(path.parent)) == "webdataset"
    if extension == "picture":
        with pytest.raises(SSLToolError, match=r"picture.*--image-column"):
            opened(path)
    assert len(opened(path, image_column=extension)) == 3


def test_bad_shards_and_patterns_are_one_line(tmp_path):
    good = shard(tmp_path / "s" / "0.tar", samples(range(4), cls=str))
    with pytest.raises(SSLToolError, match=r"no such shard: .*1\.tar"):
        opened(tmp_path / "s" / "{0..1}.tar")
    with pytest.raises(SSLToolError, match=r"braces: 'shards-\{"):
        opened(tmp_path / "s" / "*.tar")
    with pytest.raises(SSLToolError, match="has no val split"):
        opened(good, "val")
    (tmp_path / "s" / "1.tar").write_bytes(good.read_bytes()[:1500])
    with pytest.raises(SSLToolError, match=r"1\.tar is not a readable tar"):
        opened(tmp_path / "s")
    (tmp_path / "s" / "1.tar").write_bytes(gzip.compress(good.read_bytes()))
    with pytest.raises(SSLToolError, match="gunzip"):
        opened(tmp_path / "s")
    broken = shard(tmp_path / "j.tar", samples(range(1), json=lambda i: "{no json"))
    with pytest.raises(SSLToolError, match=r"sample 0000: its \.json"):
        opened(broken, label_column="x")


def test_corrupt_image_in_a_shard_is_named_and_can_be_skipped(tmp_path):
    path = shard(tmp_path / "a.tar", samples(range(3), cls=str) | {"bad.png": b"no image", "bad.cls": b"1"})
    with pytest.raises(SSLToolError, match=r"a\.tar/bad\.png"):
        Loader(opened(path), IMAGENET.at(8), torch.device("cpu")).evaluate(4).__next__()
    made = opened(path, skip_corrupt=True)
    assert made.left_out == {"corrupt": ("bad.png",)} and len(made) == 3


def test_stopped_run_on_shards_resumes_bit_for_bit(tmp_path, ssltool):
    for number in range(3):
        shard(tmp_path / f"{number}.tar", samples(range(4 * number, 4 * number + 4), cls=str))
    pattern = tmp_path / "{0..2}.tar"
    flags = [*TINY, "-b", 4, "--device", "cpu", "-j", 0, "--monitor-every", 0, "--epochs", 2, "--save-every", 1]
    assert ssltool("pretrain", pattern, *flags, "-o", tmp_path / "whole").code == 0
    stopped = tmp_path / "stopped"
    assert ssltool("pretrain", pattern, *flags, "-o", stopped).code == 0
    (stopped / "checkpoint.pt").write_bytes((stopped / "checkpoint_0000.pt").read_bytes())
    ran = ssltool("pretrain", pattern, *flags, "-o", stopped, "--resume", "auto")
    assert ran.code == 0, ran.err
    assert same_run(tmp_path / "whole", stopped)
