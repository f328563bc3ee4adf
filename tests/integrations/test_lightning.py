"""The callback for Lightning, in the real Trainer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from helpers import records, same_bits
from ssltool import Monitor
from ssltool.errors import SSLToolError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("pytorch_lightning")

from ssltool.integrations.lightning import CollapseMonitor

pytestmark = pytest.mark.filterwarnings("ignore")

IMAGES = torch.randn(32, 3, 4, 4, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(IMAGES, torch.arange(32) % 2)
LAYERS = {"backbone": "backbone", "projector": "heads.projector"}


class Method(lightning.LightningModule):  # type: ignore[name-defined]
    def __init__(self, *, accumulate: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(48, 12), nn.BatchNorm1d(12), nn.Dropout(0.3))
        self.heads = nn.ModuleDict({"projector": nn.Linear(12, 6)})
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.heads["projector"](self.backbone(batch[0])).square().mean()
        self.losses.append(float(loss))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(tmp_path: Path, *callbacks: Any, **more: Any) -> tuple[Method, Any]:
    torch.manual_seed(1)
    method = Method()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    settings = {"max_steps": 2, "accelerator": "cpu", "logger": False, "log_every_n_steps": 1, **quiet}
    trainer = lightning.Trainer(default_root_dir=tmp_path, callbacks=list(callbacks), **(settings | more))
    trainer.fit(method, DataLoader(DATA, batch_size=8, shuffle=True), DataLoader(DATA, batch_size=16))
    return method, trainer


def test_two_steps_are_watched_logged_and_written(tmp_path):
    watch = CollapseMonitor(LAYERS, every=1, out=tmp_path / "run")
    logger = lightning.loggers.CSVLogger(tmp_path / "csv")
    method, trainer = fit(tmp_path, watch, logger=logger)
    assert [check.step for check in watch.checks] == [0, 1, 2]
    assert [check.record.get("loss") for check in watch.checks] == [None, *map(pytest.approx, method.losses)]
    looks = records(tmp_path / "run")
    assert [look["step"] for look in looks] == [0, 1, 2]
    assert 0 <= looks[-1]["backbone_knn"] <= 1
    last = watch.checks[-1].record
    assert float(trainer.callback_metrics["projector_auc"]) == pytest.approx(last["projector_auc"], rel=1e-6)
    logged = Path(logger.log_dir, "metrics.csv").read_text()
    assert "backbone_effective_rank" in logged and "collapse_severity" in logged
    again = Monitor(IMAGES, {"backbone": method.backbone, "projector": method.heads["projector"]}).look(2).record
    assert again["projector_rankme"] == pytest.approx(last["projector_rankme"], rel=1e-5)


def test_the_training_is_bit_equal_with_and_without_it(tmp_path):
    watched, _ = fit(tmp_path, CollapseMonitor(LAYERS, every=1), max_steps=6)
    alone, _ = fit(tmp_path, max_steps=6)
    assert same_bits(dict(watched.state_dict()), dict(alone.state_dict()))
    assert watched.losses == alone.losses


def test_steps_are_those_of_the_optimizer_and_losses_those_of_a_batch(tmp_path):
    watch = CollapseMonitor(LAYERS, IMAGES, every=1)
    method, _ = fit(tmp_path, watch, accumulate_grad_batches=2)
    assert [check.step for check in watch.checks] == [0, 1, 2]
    assert [check.record["loss"] for check in watch.checks[1:]] == pytest.approx(method.losses[1::2])


def test_stop_on_stops_the_training(tmp_path):
    watch = CollapseMonitor({"backbone": lambda x: torch.ones(len(x), 3)}, every=2, stop_on="complete")
    _, trainer = fit(tmp_path, watch, max_steps=20)
    assert watch.checks[-1].state == "complete"
    assert trainer.global_step < 5


def test_collapse_is_a_warning(tmp_path):
    watch = CollapseMonitor({"backbone": lambda x: torch.ones(len(x), 3)}, every=2)
    with pytest.warns(UserWarning, match="step 2: the backbone shows complete collapse"):
        fit(tmp_path, watch)


def test_an_unknown_attribute_and_no_images_are_errors(tmp_path):
    with pytest.raises(SSLToolError, match=r"'encoder'.*backbone, heads"):
        fit(tmp_path, CollapseMonitor({"backbone": "encoder"}))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(
        max_steps=1, accelerator="cpu", logger=False, callbacks=[CollapseMonitor(LAYERS)], **quiet
    )
    with pytest.raises(SSLToolError, match="images"):
        trainer.fit(Method(), DataLoader(DATA, batch_size=8))
    with pytest.raises(SSLToolError, match="stop_on"):
        CollapseMonitor(LAYERS, stop_on="partly")
