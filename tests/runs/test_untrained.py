"""The untrained network of a run: measured as the monitor measures, and shown by ``rank --checkpoints``."""

from __future__ import annotations

import shutil

import pytest
import torch

from ssltool.config import RankConfig
from ssltool.data.shard import Shard
from ssltool.runs.history import read_runs, restore_setup
from ssltool.runs.untrained import untrained_record
from ssltool.stages.pretrain.epoch_monitor import EpochMonitor
from ssltool.stages.rank.rank import run as rank

CPU = torch.device("cpu")


def test_it_has_the_values_that_the_monitor_would_have_recorded(trained):
    (run,) = read_runs([str(trained)])
    setup = restore_setup(run)
    record = {"epoch": setup.epochs - 1, "step": 0, "loss": 0.0, "lr": 1.0, "fixed_lr": 1.0}
    looked = EpochMonitor(setup, CPU, Shard(0, 1)).check(setup.build_method(), record, [], 1.0).values
    found = untrained_record(run, trained / "checkpoint.pt", CPU)
    assert found.keys() <= looked.keys() and "verdict" not in found  # which is none of an untrained network
    expected = {name: looked[name] for name in found if looked[name] is not None}  # alpha has too few directions
    assert {name for name in found if found[name] is None} == found.keys() - expected.keys()
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert found["backbone_auc"] != pytest.approx(run.records[-1]["backbone_auc"], rel=1e-3)


@pytest.fixture
def kept(trained, tmp_path):
    """The trained run with a second kept checkpoint."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.copy(folder / "checkpoint_0001.pt", folder / "checkpoint_0000.pt")
    return folder


def test_it_is_the_last_row_of_the_checkpoints_without_a_rank(kept, ssltool):
    ran = ssltool("rank", kept, "--checkpoints")
    assert ran.code == 0, ran.err
    head, *rows = [line.split() for line in ran.out.splitlines()[:4]]
    assert head == ["rank", "run", "epoch", "method", "arch", "strategy", "auc", "loss", "knn", "verdict"]
    assert [row[0] for row in rows] == ["1", "2", "-"] and rows[2][1:3] == ["untrained", "-"]
    (run,) = read_runs([str(kept)])
    expected = untrained_record(run, kept / "checkpoint.pt", CPU)
    assert [float(rows[2][place]) for place in (6, 8)] == pytest.approx(
        [expected["backbone_auc"], expected["backbone_knn"]], rel=1e-3
    )
    assert float(rows[0][7]) in [pytest.approx(record["loss"], rel=1e-3) for record in run.records]


def test_agreement_and_order_do_not_use_it(kept):
    found = rank(RankConfig(items=(str(kept),), checkpoints=True))
    assert [row["untrained"] for row in found["rows"]] == [False, False, True]
    assert "2 rows with an accuracy" in " ".join(found["notes"])
    assert found["rows"][2]["rank"] is None and found["rows"][2]["epoch"] is None


def test_without_its_images_a_note_says_why_it_is_left_out(tiny, tmp_path, write_images):
    from ssltool.stages.pretrain import run as pretrain

    write_images(tmp_path / "images", 40)
    folder = pretrain(tiny(data=str(tmp_path / "images"), workers=0, steps_per_epoch=1, epochs=1))
    (tmp_path / "images").rename(tmp_path / "moved")
    found = rank(RankConfig(items=(str(folder),), checkpoints=True))
    assert len(found["rows"]) == 1
    (note,) = [note for note in found["notes"] if "untrained" in note]
    assert str(tmp_path / "images") in note
