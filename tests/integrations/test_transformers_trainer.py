"""The callback for the Trainer of transformers, in the real Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import records, same_bits
from ssltool.errors import SSLToolError

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")  # which the Trainer needs

from ssltool.integrations.transformers import CollapseMonitor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

LAYERS = {"backbone": ("vit", "last_hidden_state")}


def data() -> list[dict[str, Any]]:
    images = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return [{"pixel_values": image, "labels": i % 2} for i, image in enumerate(images)]


def trainer_of(tmp_path: Path, **more: Any) -> Any:
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    torch.manual_seed(0)
    settings = {"max_steps": 2, "logging_steps": 1, "report_to": [], "use_cpu": True, "disable_tqdm": True, **more}
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"), per_device_train_batch_size=8, save_strategy="no", seed=0, **settings
    )
    model = transformers.ViTForImageClassification(config)
    return transformers.Trainer(model, arguments, train_dataset=data(), eval_dataset=data())


def test_two_steps_are_watched_logged_and_written(tmp_path):
    trainer = trainer_of(tmp_path)
    watch = CollapseMonitor(trainer, LAYERS, every=1, out=tmp_path / "run")
    trainer.add_callback(watch)
    trainer.train()
    assert [look["step"] for look in records(tmp_path / "run")] == [0, 1, 2]
    logged = [one for one in trainer.state.log_history if "backbone_auc" in one]
    assert [one["step"] for one in logged] == [0, 1, 2]
    assert logged[-1]["backbone_rankme"] == watch.checks[-1].record["backbone_rankme"]
    losses = [one["loss"] for one in trainer.state.log_history if "loss" in one]
    assert len(losses) == 2  # the Trainer's own logs are as without it
    assert [check.record.get("loss") for check in watch.checks] == [None, None, losses[0]]
    assert 0 <= watch.checks[0].record["backbone_knn"] <= 1
    assert any("tokens" in warning for warning in watch.checks[0].warnings)


def test_the_training_is_bit_equal_with_and_without_it(tmp_path):
    def weights(watched: bool) -> Any:
        trainer = trainer_of(tmp_path, max_steps=4)
        if watched:
            trainer.add_callback(CollapseMonitor(trainer, LAYERS, every=1))
        trainer.train()
        return dict(trainer.model.state_dict())

    assert same_bits(weights(True), weights(False))


def test_stop_on_stops_the_training(tmp_path):
    trainer = trainer_of(tmp_path, max_steps=20)
    constant = {"backbone": lambda x: torch.ones(len(x), 3)}
    trainer.add_callback(CollapseMonitor(trainer, constant, every=2, stop_on="complete"))
    trainer.train()
    assert trainer.state.global_step < 5


def test_an_unknown_attribute_is_an_error(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.add_callback(CollapseMonitor(trainer, {"backbone": "encoder"}))
    with pytest.raises(SSLToolError, match=r"'encoder'.*vit, classifier"):
        trainer.train()
