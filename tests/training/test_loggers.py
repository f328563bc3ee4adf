"""The optional loggers: records of all epochs, and errors for missing packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import TINY
from ssltool.errors import SSLToolError
from ssltool.stages.pretrain import run as pretrain
from ssltool.training.loggers import check_loggers, open_loggers
from ssltool.training.optimizers import LARGEST

RECORD = {"epoch": 3, "strategy": "iid", "loss": -0.5, "lr": 0.1}


@pytest.fixture
def wandb(monkeypatch):
    """A mock of the wandb package that records its calls."""
    calls: list[tuple[str, Any]] = []
    run = SimpleNamespace(log=lambda record, step: calls.append(("log", (dict(record), step))))

    def init(**settings: Any) -> SimpleNamespace:
        calls.append(("init", settings | {"mode": os.environ.get("WANDB_MODE")}))
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return calls


@pytest.fixture
def writer(monkeypatch):
    """A mock of TensorBoard's writer that records the scalars."""
    scalars: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            self.folder = folder

        def add_scalar(self, name: str, value: float, step: int) -> None:
            scalars.append((name, value, step))

        def flush(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    return scalars


def test_no_logger_is_opened_by_default(tiny, tmp_path):
    assert open_loggers(tiny(), tmp_path) == []


def test_tensorboard_logs_all_numbers_of_a_record_at_its_epoch(tiny, tmp_path, writer):
    (log,) = open_loggers(tiny(tensorboard=True), tmp_path)
    log(RECORD)
    assert writer == [("loss", -0.5, 3), ("lr", 0.1, 3)]


def test_a_run_that_fails_before_its_first_record_leaves_no_file_of_tensorboard(ssltool, tmp_path, monkeypatch):
    class SummaryWriter:
        """Creates its file at once, as TensorBoard's does."""

        def __init__(self, folder: str) -> None:
            (Path(folder) / "events.out.tfevents.1").touch()

        def add_scalar(self, *args: object) -> None: ...
        def flush(self) -> None: ...

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    flags = [*TINY, "--epochs", 1, "--steps-per-epoch", 2, "-b", 16, "--device", "cpu", "--monitor-every", 0]
    command = ["pretrain", *flags, "--tensorboard", "-o", tmp_path / "run"]
    assert ssltool(*command, "--lr", 1e4 * LARGEST).code == 1
    assert not (tmp_path / "run").exists()
    assert ssltool(*command).code == 0
    assert (tmp_path / "run" / "events.out.tfevents.1").exists()


def test_wandb_run_is_named_after_the_folder_and_can_be_resumed(tiny, tmp_path, wandb):
    (log,) = open_loggers(tiny(wandb=True), tmp_path / "rn18_0001")
    log(RECORD)
    (_, settings), logged = wandb
    assert (settings["id"], settings["resume"], settings["mode"]) == ("rn18_0001", "allow", None)
    assert logged == ("log", (RECORD, 3))


def test_test_keeps_wandb_offline(tiny, tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    open_loggers(tiny(wandb=True, test=True), tmp_path)
    assert wandb[0][1]["mode"] == "offline"


@pytest.mark.parametrize(("extra", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_missing_package_is_refused_with_the_extra_to_install(tiny, monkeypatch, extra, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SSLToolError, match=rf"--{extra} .*pip install .ssltool\[{extra}\]"):
        check_loggers(tiny(**{extra: True}))


def test_run_logs_every_epoch_to_every_logger(tiny, writer, wandb):
    pretrain(tiny(steps_per_epoch=1, tensorboard=True, wandb=True))
    assert [(name, step) for name, _, step in writer if name == "loss"] == [("loss", 0), ("loss", 1)]
    assert [arguments[1] for name, arguments in wandb if name == "log"] == [0, 1]
    scalars = {name for name, _, _ in writer}
    assert {"backbone_auc", "backbone_knn", "projector_effective_rank", "monitor_share"} <= scalars
    assert not {"verdict", "projector_alpha"} & scalars  # a word, and what 16 dimensions are too few for
