"""WebDataset shards as a stream: read once, in order, without listing the images first."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import same_run
from ssltool.config import DataSettings
from ssltool.data import image_files, shard_stream
from ssltool.data.images import open_dataset
from ssltool.data.layouts import webdataset
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET
from ssltool.data.shard_stream import open_stream
from ssltool.errors import Interrupted, SSLToolError
from ssltool.stages.pretrain import run as pretrain
from ssltool.training import open_images

COUNTS = (5, 1, 9, 4, 8)


@pytest.fixture(autouse=True)
def small_sample(monkeypatch):
    """Makes the sample of images that is read before training smaller than the stream."""
    for module in (image_files, shard_stream):
        monkeypatch.setattr(module, "SAMPLE_HEADERS", 3)


@pytest.fixture
def shards(tmp_path) -> str:
    """Five shards of 27 images, each of its own grey."""
    number = 0
    for name, count in enumerate(COUNTS):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            for _ in range(count):
                stream = io.BytesIO()
                Image.new("RGB", (12, 12), (9 * number,) * 3).save(stream, "PNG")
                info = tarfile.TarInfo(f"{number:03d}.png")
                info.size = len(stream.getvalue())
                archive.addfile(info, io.BytesIO(stream.getvalue()))
                number += 1
    return str(tmp_path / "{0..4}.tar")


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The shards whose headers are read, in order."""
    found: list[str] = []
    original = webdataset.images_of_shard

    def reading(shard: str, column: str | None):
        found.append(Path(shard).name)
        return original(shard, column)

    monkeypatch.setattr(webdataset, "images_of_shard", reading)
    return found


@pytest.fixture
def streamed(tiny, shards):
    """Settings of a run of 24 images of the stream."""

    def make(out: str = "run", **changes):
        schedule = {"strategy": "current", "epochs": 2, "steps_per_epoch": 3, "batch_size": 4, "monitor_size": 4}
        return tiny(out, **{"data": shards, "stream": True, "workers": 0} | schedule | changes)

    return make


@pytest.mark.parametrize("workers", [0, 2])
def test_the_images_are_those_of_the_listed_shards_in_order(shards, workers):
    listed = open_dataset(DataSettings(data=shards), "train")
    stream = open_stream(DataSettings(data=shards), 27)
    assert len(stream) == len(listed) == 27

    def greys(images) -> torch.Tensor:
        loader = Loader(images, IMAGENET.at(12), torch.device("cpu"), workers)
        return torch.cat([batch.views[0][:, 0, 4, 4] for batch in loader.evaluate(4)])

    assert torch.equal(greys(stream), greys(listed))


def test_rows_may_be_read_again_and_in_any_order(shards):
    listed = open_dataset(DataSettings(data=shards, skip_corrupt=False, image_size=12), "train")
    stream = open_stream(DataSettings(data=shards), 27)
    rows = np.random.default_rng(0).integers(0, 27, 60)
    names = [str(stream.paths[int(row)]).rpartition("/")[2] for row in rows]
    assert names == [f"{row:03d}.png" for row in rows]
    assert len(listed) == 27


def test_only_the_shards_that_are_needed_are_read(shards, read):
    stream = open_stream(DataSettings(data=shards), 6)
    assert read == ["0.tar"]
    assert stream.paths.count_until(6).keys() == {f"{Path(shards).parent}/{n}.tar" for n in (0, 1)}
    assert read == ["0.tar", "1.tar"]


def test_a_stopped_stream_resumes_bit_for_bit_and_does_not_count_the_shards_again(streamed, interrupt_at, read):
    whole = pretrain(streamed("whole"))
    config = streamed("stopped")
    interrupt_at(3)
    with pytest.raises(Interrupted):
        pretrain(config)
    first = len(read)
    run = pretrain(streamed("stopped", resume="auto"))
    assert same_run(whole, run)
    counts = json.loads((run / "shards.json").read_text())
    assert list(counts.values()) == list(COUNTS)
    monitored = {"0.tar"}  # the first images, which the monitor measures
    assert {*read[first:]} <= monitored | {"2.tar", "3.tar", "4.tar"}


def test_too_few_images_are_an_error_before_training_if_the_shards_are_counted(shards, tmp_path):
    known = {f"{number}.tar": count for number, count in enumerate(COUNTS)}
    (tmp_path / "sizes.json").write_text(json.dumps(known))
    with pytest.raises(SSLToolError, match="27 images"):
        open_stream(DataSettings(data=shards), 28)
    open_stream(DataSettings(data=shards), 27)


def test_pictures_of_a_streamed_run_are_of_its_images(streamed, ssltool, tmp_path):
    pretrain(streamed("run", save_every=1))
    for plot in ("schedule", "views"):
        ran = ssltool("plot", plot, tmp_path / "run", "-o", tmp_path / f"{plot}.png")
        assert ran.code == 0, ran.err
    ran = ssltool("report", tmp_path / "run", "-o", tmp_path / "report.html", "--device", "cpu")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("change", [{"dataset_type": "webdataset_val"}, {"unlabelled": ("0",)}])
def test_settings_that_do_nothing_with_a_stream_are_refused(streamed, change):
    with pytest.raises(SSLToolError):
        pretrain(streamed(**change))


def test_the_end_of_the_shards_stops_the_run_and_keeps_its_progress(streamed, tmp_path):
    with pytest.raises(SSLToolError, match="27 images"):
        pretrain(streamed("run", steps_per_epoch=4))
    assert (tmp_path / "run" / "checkpoint.pt").is_file()


def test_a_wrong_count_or_a_sample_without_an_image_names_the_shard(shards, tmp_path):
    (tmp_path / "sizes.json").write_text(json.dumps({"1.tar": 3}))
    with pytest.raises(SSLToolError, match=r"1\.tar"):
        open_stream(DataSettings(data=shards), 27).paths.read(6)
    (tmp_path / "sizes.json").unlink()
    with tarfile.open(tmp_path / "1.tar", "a") as archive:
        archive.addfile(tarfile.TarInfo("x.cls"))
    with pytest.raises(SSLToolError, match=r"1\.tar, sample x"):
        open_stream(DataSettings(data=shards), 27).paths.read(6)


def test_changed_shards_are_refused_on_resume(streamed, tmp_path, interrupt_at):
    interrupt_at(3)
    with pytest.raises(Interrupted):
        pretrain(streamed("run"))
    os.truncate(tmp_path / "4.tar", 1024)
    with pytest.raises(SSLToolError, match="images are not those of its run"):
        pretrain(streamed("run", resume="auto"))


def test_ranks_other_than_0_take_the_list_of_shards_from_it(shards, monkeypatch):
    images = open_dataset(DataSettings(data=shards), "train")
    monkeypatch.setattr(open_images, "open_dataset", None)  # calling it would fail
    found = open_images.open_images(DataSettings(data=shards), "train", lambda make: images)
    assert found.paths is images.paths and found.files == images.files


def test_each_rank_opens_a_stream(shards):
    sent, settings = [], DataSettings(data=shards)
    images = open_stream(settings, 20, None)
    assert open_images.open_on_ranks(lambda _: images, settings, lambda make: sent.append(make())) is images
    assert sent == [None]
