"""save-reprs --tokens: the rows and places that a file holds, however it was made, and what the other stages do."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_watch import Watch, needs_proc

from helpers import same_bits
from ssltool.checkpoints.load import load_pretrained
from ssltool.config import DataSettings, SaveReprsConfig
from ssltool.data.images import open_dataset
from ssltool.data.loader import Loader
from ssltool.errors import SSLToolError
from ssltool.reprs.partial_file import PartialFile
from ssltool.reprs.representations import PLACES, Representations
from ssltool.reprs.token_set import read_tokens

pytest.importorskip("timm")

N = 11
ARCH = "timm:vit_small_patch14_reg4_dinov2,depth=1,embed_dim=16,num_heads=2"
SIZE, GRID, PREFIX = 42, 3, 5
NETWORK = ["--pretrained", "random", "-a", ARCH, "--image-size", SIZE]
CPU = torch.device("cpu")


@pytest.fixture
def save(ssltool, tmp_path):
    """Saves tokens of the first train images: ``save("--tokens", "patch", "-o", path) -> Ran``."""
    np.save(tmp_path / "some.npy", 2 * np.arange(N))
    fixed = [*NETWORK, "--device", "cpu", "--idx_path", tmp_path / "some.npy", "-b", 4, "-j", 0]
    return lambda *flags: ssltool("save-reprs", *fixed, *flags)


def own_tokens() -> torch.Tensor:
    """timm's tokens (N, T, D) of these images."""
    network = load_pretrained(SaveReprsConfig(pretrained="random", arch=ARCH, image_size=SIZE), CPU)
    images = open_dataset(DataSettings(), "train").select(2 * np.arange(N))
    (batch,) = Loader(images, network.preprocessing, CPU).evaluate(N)
    with torch.no_grad():
        return network.method.backbone.forward_features(batch.views[0])


def equal(a: Path, b: Path) -> bool:
    one, two = (Representations.stored(path) for path in (a, b))
    keys = ("representations", "targets", "index", "paths", "digests", "meta", *PLACES)
    return all(same_bits(getattr(one, key), getattr(two, key)) for key in keys)


def test_the_tokens_of_each_image_are_read_back_with_their_places(save, tmp_path):
    own, labels = own_tokens(), open_dataset(DataSettings(), "train").labels
    for choice, span in {"all": slice(None), "patch": slice(PREFIX, None), "registers": slice(1, PREFIX)}.items():
        assert save("--tokens", choice, "-o", tmp_path / f"{choice}.pt").code == 0
        tokens = read_tokens(tmp_path / f"{choice}.pt")
        assert (len(tokens), tokens.grid, tokens.width) == (N, (GRID, GRID), 16)
        kinds = ([0] + [1] * 4 + [2] * GRID**2)[span]
        places = ([(-1, -1)] * PREFIX + [(i // GRID, i % GRID) for i in range(GRID**2)])[span]
        for number, image in enumerate(tokens):
            torch.testing.assert_close(image.tokens, own[number, span], rtol=1e-5, atol=1e-5)
            assert (image.index, image.target) == (2 * number, labels[2 * number])
            assert image.kind.tolist() == kinds
            assert list(zip(image.row.tolist(), image.column.tolist(), strict=True)) == places
    assert tokens.meta["tokens"] == "registers" and tokens.meta["grid"] == [GRID, GRID]
    with pytest.raises(IndexError):
        tokens[N]


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_files_of_other_formats_hold_the_same_tokens(save, tmp_path, kind):
    flags = ["--tokens", "all", "--sample-patches", 2]
    assert (
        save(*flags, "-o", tmp_path / "r.pt").code
        == save(*flags, "--format", kind, "-o", tmp_path / f"r.{kind}").code
        == 0
    )
    one, two = (read_tokens(tmp_path / f"r.{end}") for end in ("pt", kind))
    assert len(one) == len(two) == N
    for image, other in zip(one, two, strict=True):
        assert same_bits(image.tokens, other.tokens)
        for name in PLACES:
            assert getattr(image, name).tolist() == getattr(other, name).tolist()
        assert (image.index, image.target) == (other.index, other.target)


def test_sampled_patches_are_those_of_the_whole_file_at_their_places(save, tmp_path):
    for name, flags in {"patch": [], "three": ["--sample-patches", 3]}.items():
        assert save("--tokens", "patch", *flags, "-o", tmp_path / f"{name}.pt").code == 0
    whole, some = (read_tokens(tmp_path / f"{name}.pt") for name in ("patch", "three"))
    chosen = []
    for image, sampled in zip(whole, some, strict=True):
        at = (GRID * sampled.row + sampled.column).tolist()
        assert at == sorted(set(at)) and len(at) == 3
        assert same_bits(sampled.tokens, image.tokens[at])
        chosen.append(tuple(at))
    assert len(set(chosen)) > 1  # other patches of other images
    assert some.meta["sample_patches"] == 3


def test_the_sampled_patches_depend_on_the_image_only(save, tmp_path, monkeypatch, ssltool):
    flags = ["--tokens", "all", "--sample-patches", 4]
    assert save(*flags, "-o", tmp_path / "r.pt").code == 0
    whole = {image.index: image for image in read_tokens(tmp_path / "r.pt")}
    np.save(tmp_path / "other.npy", np.array([20, 4, 6]))
    others = [*NETWORK, "--device", "cpu", "--idx_path", tmp_path / "other.npy", "-b", 2, "-j", 0]
    assert ssltool("save-reprs", *others, *flags, "-o", tmp_path / "other.pt").code == 0
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert save(*flags, "-o", tmp_path / "ranks.pt").code == 0
    for name, count in (("other.pt", 3), ("ranks.pt", N)):
        found = read_tokens(tmp_path / name)
        assert len(found) == count
        for image in found:
            assert len(image.tokens) == PREFIX + 4
            assert image.row.tolist() == whole[image.index].row.tolist()
            assert image.column.tolist() == whole[image.index].column.tolist()
            torch.testing.assert_close(image.tokens, whole[image.index].tokens, rtol=1e-4, atol=1e-5)


def test_more_patches_than_an_image_has_are_refused_with_their_number(save, tmp_path):
    ran = save("--tokens", "patch", "--sample-patches", 10, "-o", tmp_path / "out" / "r.pt")
    line = ran.err.splitlines()[-1]
    assert ran.code == 1 and line.startswith("error: --sample-patches 10") and "only 9 patches" in line
    assert not (tmp_path / "out").exists()
    assert save("--tokens", "patch", "--sample-patches", 9, "-o", tmp_path / "nine.pt").code == 0
    assert save("--tokens", "patch", "-o", tmp_path / "every.pt").code == 0
    nine, every = (Representations.stored(tmp_path / f"{name}.pt") for name in ("nine", "every"))
    assert same_bits(nine.representations, every.representations)


@pytest.mark.parametrize("flags", [["all", "--dtype", "bf16"], ["patch", "--sample-patches", 2]])
def test_a_stopped_run_continues_to_the_same_bytes(save, tmp_path, monkeypatch, flags):
    flags = ["--tokens", *flags]
    assert save(*flags, "-o", tmp_path / "whole.pt").code == 0
    append, batches = PartialFile.append, []

    def stopping(self, rows):
        batches.append(len(rows))
        if len(batches) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        append(self, rows)

    monkeypatch.setattr(PartialFile, "append", stopping)
    assert save(*flags, "-o", tmp_path / "r.pt").code == 128 + signal.SIGTERM
    assert save(*flags, "-o", tmp_path / "r.pt").code == 0
    assert batches == [4, 4, 3]
    assert equal(tmp_path / "whole.pt", tmp_path / "r.pt")
    assert (tmp_path / "whole.pt").read_bytes() == (tmp_path / "r.pt").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_other_stages_measure_rows_or_refuse_tokens_of_one_image(save, ssltool, tmp_path):
    path = tmp_path / "r.pt"
    for file in (path, tmp_path / "s.pt"):
        assert save("--tokens", "all", "-o", file).code == 0
    assert ssltool("collapse", path, "--json").json["files"][0]["n"] == N * (PREFIX + GRID**2)
    for command in (["knn", path, path], ["lincls", "--reprs", path, tmp_path / "s.pt", "-o", tmp_path / "probe"]):
        ran = ssltool(*command)
        assert (ran.code, ran.err.count("\n")) == (1, 1)
        assert "14 positions of each image" in ran.err
        assert ssltool(*command, "--pool", "none").code == 1
    assert ssltool("knn", path, path, "--pool", "mean", "-k", 1).code == 0
    mean = Representations.load(path, pool="mean")
    assert len(mean) == N and mean.row is None
    assert save("--tokens", "all", "--format", "parquet", "-o", tmp_path / "r.parquet").code == 0
    for described in ssltool("inspect", path, tmp_path / "r.parquet", "--json").json["files"]:
        counts = {"images": N, "each": PREFIX + GRID**2, "cls": 1, "registers": 4, "patch": 9, "grid": [GRID, GRID]}
        assert described["tokens"] == counts


def test_files_without_tokens_are_refused(save, tmp_path):
    assert save("--tokens", "cls", "-o", tmp_path / "cls.pt").code == 0
    with pytest.raises(SSLToolError, match=r"cls\.pt holds no tokens"):
        read_tokens(tmp_path / "cls.pt")
    assert save("--tokens", "patch", "-o", tmp_path / "patch.pt").code == 0
    mixed = Representations.stored(tmp_path / "patch.pt")
    mixed.index = mixed.index.flip(0).roll(1)
    mixed.save(tmp_path / "mixed.pt")
    with pytest.raises(SSLToolError, match="not consecutive"):
        read_tokens(tmp_path / "mixed.pt")


def test_a_value_that_is_not_finite_is_named_where_its_image_is_read(save, tmp_path):
    assert save("--tokens", "patch", "-o", tmp_path / "r.pt").code == 0
    damaged = Representations.stored(tmp_path / "r.pt")
    damaged.representations = damaged.representations.clone()
    damaged.representations[GRID**2 * 3 + 1, 0] = float("nan")
    damaged.save(tmp_path / "nan.pt")
    tokens = read_tokens(tmp_path / "nan.pt")
    assert tokens[2].tokens.isfinite().all()
    with pytest.raises(SSLToolError, match="image 6: 1 of 9 rows"):
        tokens[3]


@needs_proc
@pytest.mark.parametrize("kind", ["pt", "npy"])
def test_memory_does_not_grow_with_the_number_of_images(ssltool, trained, tmp_path, kind):
    """4096 tokens of 8 floats an image: 131 kB of rows, and 82 kB of labels, numbers and places."""
    flags = ["--pretrained", trained / "checkpoint.pt", "--image-size", 128, "--layer", "backbone.conv1", "-b", 32]
    flags += ["--tokens", "patch", "--device", "cpu", "-j", 0, "--format", kind, "--idx_path", tmp_path / "some.npy"]
    peaks = {}
    for images in (64, 64, 1024):
        np.save(tmp_path / "some.npy", np.arange(images))
        with Watch() as watch:
            assert ssltool("save-reprs", *flags, "-o", tmp_path / f"{images}.{kind}").code == 0
        peaks[images] = watch.most
    rows = 960 * 4096 * 4 * 8
    assert peaks[1024] - peaks[64] < 0.25 * rows
