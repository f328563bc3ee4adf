"""What saved settings say of a run, and what is refused."""

from __future__ import annotations

import json

import pytest

from helpers import records
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.match_architecture import BackboneSpec
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.checkpoints.setting_names import stage_of
from ssltool.data import views
from ssltool.errors import SSLToolError


@pytest.fixture
def settings(trained):
    """The settings in the ``config.json`` of a run of pretrain."""
    return json.loads((trained / "config.json").read_text())


NEEDED = ("arch", "stem", "image_size", "stop_grad_conv1", "zero_init_residual", "method", "method_options", "seed")
NEEDED += ("second_backbone", "dataset", "data", "small", "n_images", "n_classes", "epoch_images", "strategy")
NEEDED += ("epochs", "batch_size", "steps_per_epoch")


def test_a_pretrained_run_has_the_values_of_its_settings(settings, trained):
    run = SavedRun.read(settings)
    assert (run.stage, run.program, run.plugins) == ("pretrain", "ssltool", ())
    assert run.backbone == BackboneSpec(
        settings["arch"],
        settings["stem"],
        settings["image_size"],
        stop_grad_conv1=settings["stop_grad_conv1"],
        zero_init_residual=settings["zero_init_residual"],
    )
    assert run.method is not None and run.data is not None and run.schedule is not None
    assert (run.method.name, run.method.options) == (settings["method"], settings["method_options"])
    assert (run.data.dataset, run.data.folder, run.data.images) == ("bundled", None, settings["n_images"])
    assert run.schedule.epochs == len(records(trained))
    assert run.recipe == views.recipe_of(settings)


def test_settings_are_kept_unchanged(settings, trained):
    assert SavedRun.read(settings).settings == settings == Checkpoint.load(trained / "checkpoint.pt").run.settings


@pytest.mark.parametrize("key", NEEDED)
def test_a_missing_setting_is_named(settings, key):
    del settings[key]
    with pytest.raises(SSLToolError, match=rf"x\.json.* {key}\b"):
        SavedRun.read(settings, "x.json")


def test_settings_that_are_not_a_dict_are_refused():
    with pytest.raises(SSLToolError, match=r"x\.pt"):
        SavedRun.read(["arch"], "x.pt")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("added", "stage"),
    [
        ({}, "pretrain"),
        ({"origin": {}}, "lincls"),
        ({"stage": "finetune"}, "finetune"),
        ({"arm": "scratch"}, "finetune"),
        ({"stage": "scan"}, "scan"),
        ({"phase": "cluster"}, "scan"),
        ({"program": "torchvision"}, None),
    ],
)
def test_the_stage_is_detected_from_the_settings(settings, added, stage):
    assert stage_of(settings | added) == SavedRun.read(settings | added).stage == stage


def test_a_backbone_without_a_run_has_no_method_data_or_schedule():
    backbone = BackboneSpec("resnet18", "imagenet", 224, zero_init_residual=False)
    run = SavedRun.of_backbone(backbone, method="dino", program="dino")
    assert (run.stage, run.method, run.data, run.schedule) == (None, None, None, None)
    assert (run.backbone, run.method_name, run.program) == (backbone, "dino", "dino")
    assert SavedRun.read(json.loads(json.dumps(run.settings))) == run


def test_updating_a_run_does_not_change_the_original(settings):
    run = SavedRun.read(settings)
    other = run.updated(seed=run.seed + 1, head=3)
    assert (other.seed, other.settings["head"]) == (run.seed + 1, 3)
    assert run.seed == settings["seed"] and "head" not in run.settings


def test_plugins_are_read_from_the_settings(settings):
    assert SavedRun.read(settings | {"plugins": ["one", "two"]}).plugins == ("one", "two")


@pytest.mark.parametrize("value", [{"a": 1}, [], 3, 1.5])
@pytest.mark.parametrize("fact", ["fingerprint", "index_hash", "order_hash", "second_hash", "support_hash"])
def test_a_hash_of_another_type_is_named(settings, fact, value):
    with pytest.raises(SSLToolError, match=rf"x\.json: {fact}\b"):
        SavedRun.read(settings | {fact: value}, "x.json")


def test_plugins_that_are_no_list_of_names_are_refused(settings):
    with pytest.raises(SSLToolError, match=r"x\.json: plugins\b"):
        SavedRun.read(settings | {"plugins": 5}, "x.json")


@pytest.mark.parametrize("name", ["data", "incremental_idx_path", "idx_path"])
def test_a_path_with_a_nul_is_refused(settings, name):
    with pytest.raises(SSLToolError, match=rf"x\.json: {name} is .*NUL"):
        SavedRun.read(settings | {name: "a\0b"}, "x.json")
