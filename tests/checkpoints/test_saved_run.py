"""What saved settings say of a run, and what is refused."""

from __future__ import annotations

import json

import pytest

from helpers import records
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.match_architecture import BackboneSpec
from ssltool.checkpoints.saved_run import SavedRun, stage_of
from ssltool.data import views
from ssltool.errors import SSLToolError


@pytest.fixture
def settings(trained):
    """The settings in the ``config.json`` of a run of pretrain."""
    return json.loads((trained / "config.json").read_text())


NEEDED = ("arch", "stem", "image_size", "stop_grad_conv1", "zero_init_residual", "method", "method_options", "seed")
NEEDED += ("second_backbone", "dataset", "data", "small", "n_images", "n_classes", "epoch_images", "strategy")
NEEDED += ("epochs", "batch_size", "steps_per_epoch")


def test_a_run_of_pretrain_has_the_parts_that_its_settings_name(settings, trained):
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


def test_the_settings_come_back_as_they_were(settings, trained):
    assert SavedRun.read(settings).settings == settings == Checkpoint.load(trained / "checkpoint.pt").run.settings


@pytest.mark.parametrize("key", NEEDED)
def test_a_missing_setting_is_named(settings, key):
    del settings[key]
    with pytest.raises(SSLToolError, match=rf"x\.json.* {key} "):
        SavedRun.read(settings, "x.json")


def test_what_is_no_dict_is_refused():
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
def test_the_stage_is_the_one_that_writes_such_settings(settings, added, stage):
    assert stage_of(settings | added) == SavedRun.read(settings | added).stage == stage


def test_a_backbone_alone_has_no_method_data_or_schedule_and_reads_back_from_its_settings():
    backbone = BackboneSpec("resnet18", "imagenet", 224, zero_init_residual=False)
    run = SavedRun.of_backbone(backbone, method="dino", program="dino")
    assert (run.stage, run.method, run.data, run.schedule) == (None, None, None, None)
    assert (run.backbone, run.method_name, run.program) == (backbone, "dino", "dino")
    assert SavedRun.read(json.loads(json.dumps(run.settings))) == run


def test_an_updated_run_has_the_new_settings_and_leaves_the_old_run_as_it_is(settings):
    run = SavedRun.read(settings)
    other = run.updated(seed=run.seed + 1, head=3)
    assert (other.seed, other.settings["head"]) == (run.seed + 1, 3)
    assert run.seed == settings["seed"] and "head" not in run.settings


def test_plugins_are_those_that_the_settings_name(settings):
    assert SavedRun.read(settings | {"plugins": ["one", "two"]}).plugins == ("one", "two")
