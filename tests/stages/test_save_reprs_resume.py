"""A run of save-reprs that is stopped or killed goes on where it was, and several ranks share one: the same bits."""

from __future__ import annotations

import os
import re
import signal
import time

import numpy as np
import pytest
import torch
from fork_server import run_ranks, running

from helpers import same_bits
from ssltool.reprs.extract import Extraction
from ssltool.reprs.partial_file import PartialFile
from ssltool.reprs.representations import Representations

N = 47
BATCH = 10


@pytest.fixture
def save(ssltool, trained, tmp_path):
    """Runs save-reprs on a few images in batches of 10: ``save("--split", "both", "-o", path) -> Ran``."""
    np.save(tmp_path / "few.npy", np.arange(N) * 3)
    fixed = ["--pretrained", trained / "checkpoint.pt", "--device", "cpu", "--idx_path", tmp_path / "few.npy"]
    return lambda *flags: ssltool("save-reprs", *fixed, "-b", BATCH, *flags)


@pytest.fixture
def stop_after(monkeypatch):
    """Sends this process a signal while the batch that follows so many is kept: ``stop_after(2)``."""
    append = PartialFile.append

    def arm(batches: int, number: int = signal.SIGTERM) -> None:
        count = 0

        def counting(self, rows):
            nonlocal count
            count += 1
            if count == batches:
                os.kill(os.getpid(), number)
            append(self, rows)

        monkeypatch.setattr(PartialFile, "append", counting)

    return arm


@pytest.fixture
def outputs(monkeypatch):
    """The sizes of the batches that went through the network."""
    made, seen = Extraction._outputs, []

    def counting(self, batch):
        seen.append(len(batch.rows))
        return made(self, batch)

    monkeypatch.setattr(Extraction, "_outputs", counting)
    return seen


def same(a, b) -> bool:
    """Whether two files hold the same rows of the same origin, to the last bit."""
    one, two = (Representations.stored(path) for path in (a, b))
    return all(
        same_bits(getattr(one, key), getattr(two, key)) for key in ("representations", "targets", "index", "meta")
    )


def leftovers(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


PLACES = ["--layer", "backbone.layer1", "--pool", "none"]


@pytest.mark.parametrize(
    ("flags", "number", "code"),
    [
        ([], signal.SIGTERM, 143),
        ([], signal.SIGINT, 130),
        (["--views", 30], signal.SIGTERM, 143),
        (PLACES, signal.SIGUSR1, 138),
    ],
)
def test_a_run_stopped_by_a_signal_continues_bit_identically(save, stop_after, outputs, tmp_path, flags, number, code):
    assert save("--split", "train", *flags, "-o", tmp_path / "whole.pt").code == 0
    batches = len(outputs)
    outputs.clear()
    stop_after(2, number)
    ran = save("--split", "train", *flags, "-o", tmp_path / "out" / "r.pt")
    per_batch = 8 if flags[:1] == ["--views"] else BATCH
    assert (ran.code, ran.out) == (code, "")
    assert re.search(rf"signal {int(number)}; .*\b{2 * per_batch} of {N} images", ran.err)
    assert leftovers(tmp_path / "out") == [".r.pt.unfinished", ".r.pt.unfinished.images"]
    outputs.clear()
    ran = save("--split", "train", *flags, "-o", tmp_path / "out" / "r.pt")
    assert ran.code == 0
    assert f" {2 * per_batch} of {N} images" in ran.err
    assert len(outputs) == batches - 2
    assert same(tmp_path / "whole.pt", tmp_path / "out" / "r.pt")
    assert leftovers(tmp_path / "out") == []


def test_the_first_split_is_not_computed_again_if_the_second_was_stopped(save, stop_after, outputs, tmp_path):
    assert save("--split", "both", "--sample", 30, "-o", tmp_path / "whole").code == 0
    outputs.clear()
    stop_after(4)
    assert save("--split", "both", "--sample", 30, "-o", tmp_path / "r").code == 143
    names = [f".{split}_reprs_e0.pt.unfinished{end}" for split in ("train", "val") for end in ("", ".images")]
    assert leftovers(tmp_path / "r") == names
    outputs.clear()
    assert save("--split", "both", "--sample", 30, "-o", tmp_path / "r").code == 0
    assert outputs == [10, 10]
    for split in ("train", "val"):
        assert same(tmp_path / "whole" / f"{split}_reprs_e0.pt", tmp_path / "r" / f"{split}_reprs_e0.pt")
    assert leftovers(tmp_path / "r") == []


@pytest.mark.parametrize(("flags", "changed"), [(["--layer", "projector"], "layer"), (["-b", 7], "batch_size")])
def test_other_settings_start_over_and_are_named(save, stop_after, tmp_path, flags, changed):
    stop_after(2)
    assert save("--split", "train", "-o", tmp_path / "r.pt").code == 143
    ran = save("--split", "train", *flags, "-o", tmp_path / "r.pt")
    assert ran.code == 0
    (line,) = (line for line in ran.err.splitlines() if "starting over" in line)
    assert changed in line
    save("--split", "train", *flags, "-o", tmp_path / "whole.pt")
    assert same(tmp_path / "whole.pt", tmp_path / "r.pt")


def test_other_images_start_over(save, stop_after, tmp_path):
    stop_after(2)
    assert save("--split", "train", "-o", tmp_path / "r.pt").code == 143
    np.save(tmp_path / "few.npy", np.arange(N) * 3 + 1)
    ran = save("--split", "train", "-o", tmp_path / "r.pt")
    assert re.search(r"\bindex\b.*starting over", ran.err)
    assert Representations.load(tmp_path / "r.pt").index.tolist() == [3 * i + 1 for i in range(N)]


def test_a_signal_in_the_last_batch_does_not_stop_the_run(save, stop_after, tmp_path):
    stop_after(5)
    assert save("--split", "train", "-o", tmp_path / "r.pt").code == 0
    assert len(Representations.load(tmp_path / "r.pt")) == N


def test_an_existing_file_is_kept_until_the_new_one_is_complete(save, stop_after, tmp_path):
    assert save("--split", "train", "-o", tmp_path / "r.pt").code == 0
    before = (tmp_path / "r.pt").read_bytes()
    stop_after(2)
    assert save("--split", "train", "--layer", "projector", "-o", tmp_path / "r.pt").code == 143
    assert (tmp_path / "r.pt").read_bytes() == before


def test_the_run_of_a_killed_process_is_continued(ssltool, server, trained, tmp_path):
    """By SIGKILL, at whatever moment: no handler runs, and the last rows may be half-written."""
    flags = ["--pretrained", trained / "checkpoint.pt", "--device", "cpu", "--split", "val", "-b", 10]
    command = ["ssltool", "save-reprs", *flags]
    unfinished, deadline = tmp_path / ".r.pt.unfinished", time.monotonic() + 60
    with running(server, *command, "-o", tmp_path / "r.pt") as (process, _, _):
        while not (unfinished.exists() and unfinished.stat().st_size > 20 * 10 * 64 * 4):
            assert time.monotonic() < deadline and process.wait(0.01) is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "r.pt").exists()
    ran = ssltool(*command[1:], "-o", tmp_path / "r.pt")
    assert ran.code == 0
    assert re.search(r"after \d+ of \d+ images", ran.err)
    assert ssltool(*command[1:], "-o", tmp_path / "whole.pt").code == 0
    assert same(tmp_path / "whole.pt", tmp_path / "r.pt")


def ranks(monkeypatch, save, world: int, *flags) -> list:
    """The command as each rank of torchrun runs it, one after another: they need nothing of one another."""
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(world))
    ran = []
    for rank in range(world):
        monkeypatch.setenv("RANK", str(rank))
        ran.append(save(*flags))
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    return ran


@pytest.mark.parametrize(("world", "flags"), [(2, ["--views", 30]), (3, PLACES), (5, [])])
def test_ranks_together_write_what_one_process_writes(save, monkeypatch, tmp_path, world, flags):
    save("--split", "train", *flags, "-o", tmp_path / "one.pt")
    first, *others = ranks(monkeypatch, save, world, "--split", "train", *flags, "-o", tmp_path / "r.pt", "--json")
    names = [tmp_path / f"r.rank{rank}of{world}.pt" for rank in range(world)]
    assert [written["path"] for written in first.json["files"]] == list(map(str, names))
    assert all(other.out == "" for other in others)
    parts, one = [Representations.stored(name) for name in names], Representations.stored(tmp_path / "one.pt")
    assert [written["n"] for written in first.json["files"]] == [len(part) for part in parts]
    assert all(len(part) > 0 for part in parts)
    for key in ("representations", "targets", "index"):
        assert torch.equal(torch.cat([getattr(part, key) for part in parts]), getattr(one, key))
    assert [part.meta["shard"] for part in parts] == [[rank, world] for rank in range(world)]
    assert one.meta["shard"] is None
    assert not (tmp_path / "r.pt").exists()


def test_every_rank_has_images_when_they_are_fewer_than_a_batch_for_each(save, monkeypatch, tmp_path):
    save("--split", "train", "-o", tmp_path / "one.pt")
    ranks(monkeypatch, save, 3, "--split", "train", "-b", 100, "-o", tmp_path / "r.pt")
    parts = [Representations.stored(tmp_path / f"r.rank{rank}of3.pt") for rank in range(3)]
    one = Representations.stored(tmp_path / "one.pt")
    assert min(map(len, parts)) >= N // 3 - 1
    assert torch.equal(torch.cat([part.index for part in parts]), one.index)
    torch.testing.assert_close(torch.cat([part.representations for part in parts]), one.representations)


def test_later_stages_read_the_files_of_all_ranks_as_one(save, monkeypatch, ssltool, tmp_path):
    save("--split", "train", "-o", tmp_path / "one.pt")
    ranks(monkeypatch, save, 2, "--split", "train", "-o", tmp_path / "r.pt")
    names = [tmp_path / f"r.rank{rank}of2.pt" for rank in range(2)]
    read, one = Representations.load(names), Representations.load(tmp_path / "one.pt")
    assert torch.equal(read.representations, one.representations)
    assert read.index.tolist() == one.index.tolist()
    merged = ssltool("collapse", "--merge", *names, "--json").json["files"][0]
    single = ssltool("collapse", tmp_path / "one.pt", "--json").json["files"][0]
    assert merged["n"] == single["n"] == N
    assert merged["metrics"]["auc"] == pytest.approx(single["metrics"]["auc"])


def test_a_stopped_rank_continues_its_own_part(save, stop_after, monkeypatch, tmp_path):
    flags = ["--split", "train", "-o", tmp_path / "r.pt"]
    ranks(monkeypatch, save, 2, "--split", "train", "-o", tmp_path / "whole.pt")
    stop_after(1)
    first, second = ranks(monkeypatch, save, 2, *flags)
    assert (first.code, second.code) == (143, 0)
    first, second = ranks(monkeypatch, save, 2, *flags)
    assert (first.code, second.code) == (0, 0)
    assert "after 10 of 20 images" in first.err
    for rank in range(2):
        assert same(tmp_path / f"whole.rank{rank}of2.pt", tmp_path / f"r.rank{rank}of2.pt")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--views", 30, "--sample", 3], r"3 images of bundled train .*\b1 batch .*\b2 ranks"),
        (["--gpu", 0, "--device", "auto"], "--gpu 0 "),
        (["--download"], "--download .*torchrun"),
    ],
)
def test_settings_that_several_ranks_cannot_have_are_refused(save, monkeypatch, tmp_path, flags, line):
    ran = ranks(monkeypatch, save, 2, "--split", "train", *flags, "-o", tmp_path / "out" / "r.pt")[0]
    assert ran.code == 1
    assert re.match(f"error: {line}", ran.err)
    assert not (tmp_path / "out").exists()


def test_ranks_that_run_at_the_same_time_write_their_shards(trained, tmp_path, server):
    flags = ["--pretrained", trained / "checkpoint.pt", "--device", "cpu", "--split", "val", "-o", tmp_path / "r.pt"]
    ran = run_ranks(server, "ssltool", "save-reprs", *flags)
    assert ran.returncode == 0, ran.stderr
    names = [tmp_path / f"r.rank{rank}of2.pt" for rank in range(2)]
    assert [ran.stdout.count(str(name)) for name in names] == [1, 1]
    assert Representations.load(names).index.tolist() == list(range(2000))
