"""Which checkpoint a run goes on from: the newest undamaged one, and its own if its command is repeated."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from helpers import records, same_run
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.errors import Interrupted, SSLToolError
from ssltool.stages.pretrain import run as pretrain

FAST = {"steps_per_epoch": 1, "monitor_every": 0}


def damage(path: Path) -> None:
    """Changes one bit in the middle of the file's tensors. Other hard links to it keep theirs."""
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.unlink()
    path.write_bytes(changed)


def test_the_newest_undamaged_checkpoint_is_resumed_to_the_same_bits(tiny, capsys):
    whole = pretrain(tiny("whole", epochs=4, save_every=1, **FAST))
    run = pretrain(tiny(epochs=4, save_every=1, **FAST))
    for name in ("checkpoint.pt", "checkpoint_0003.pt"):
        damage(run / name)
    capsys.readouterr()
    assert same_run(whole, pretrain(tiny(epochs=4, save_every=1, resume="auto", **FAST)))
    said = capsys.readouterr().err.splitlines()
    warnings = [line for line in said if "is damaged" in line]
    assert all(name in line for line, name in zip(warnings, ("checkpoint.pt", "checkpoint_0003.pt"), strict=True))
    assert all(line.endswith(f"using {run / 'checkpoint_0002.pt'}") for line in warnings)
    assert [line["epoch"] for line in records(run)] == [0, 1, 2, 3]


@pytest.mark.parametrize("resume", ["auto", "checkpoint.pt", "."])
def test_a_run_never_starts_anew_because_its_checkpoints_are_damaged(tiny, resume):
    config = tiny(epochs=2, save_every=1, **FAST)
    run = pretrain(config)
    named = resume == "checkpoint.pt"
    for path in [run / "checkpoint.pt", *([] if named else [run / "checkpoint_0000.pt", run / "checkpoint_0001.pt"])]:
        damage(path)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(SSLToolError, match=r"checkpoint\.pt is damaged") as error:
        pretrain(dataclasses.replace(config, resume=resume if resume == "auto" else str(run / resume)))
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_the_command_of_a_hybrid_run_continues_it_at_any_stage(tiny, interrupt_at, tmp_path):
    """Before its first checkpoint, within its first epoch and the next one, and when it is complete."""
    fast = {"epochs": 3, "steps_per_epoch": 2, "monitor_every": 0}
    single = pretrain(tiny("single", strategy="current", save_every=1, **fast))
    settings = fast | {"resume": str(single / "checkpoint_0000.pt")}
    whole = pretrain(tiny("whole", **settings))
    (tmp_path / "hybrid").mkdir()
    (tmp_path / "hybrid" / "config.json").write_bytes((whole / "config.json").read_bytes())
    for done in (2, 4):
        interrupt_at(done)
        with pytest.raises(Interrupted):
            pretrain(tiny("hybrid", **settings))
    for _ in range(2):
        assert same_run(whole, pretrain(tiny("hybrid", **settings)))


def test_a_run_that_did_not_begin_with_the_named_checkpoint_is_not_continued(tiny):
    start = pretrain(tiny("start", seed=3, **FAST)) / "checkpoint.pt"
    run = pretrain(tiny("run", **FAST))
    with pytest.raises(SSLToolError, match="already contains a run"):
        pretrain(tiny("run", resume=str(start), **FAST))
    assert Checkpoint.load(run / "checkpoint.pt").config["seed"] == tiny().seed


def test_keep_leaves_the_newest_checkpoints_of_epochs(tiny):
    run = pretrain(tiny(epochs=5, save_every=1, keep=2, **FAST))
    assert {path.name for path in run.glob("*.pt")} == {"checkpoint.pt", "checkpoint_0003.pt", "checkpoint_0004.pt"}
    assert [Checkpoint.load(run / f"checkpoint_000{epoch}.pt").epoch for epoch in (3, 4)] == [4, 5]
