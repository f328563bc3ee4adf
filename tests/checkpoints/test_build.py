"""From saved settings to the method that they describe."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from helpers import same_bits
from ssltool.checkpoints.build import backbone_weights, build_method, read_teacher
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.errors import SSLToolError
from ssltool.methods import METHODS, method_options
from ssltool.stages.pretrain.prepare import prepare
from tiny_methods import MASKED, OF_PATCHES, tiny_config


@pytest.fixture
def setup(tmp_path, trained):
    """The setup of a tiny run of a method: ``setup("byol", seed=3)``; ``options`` are added to the method's."""

    def make(method: str, **changes):
        return prepare(tiny_config(method, tmp_path / "run", trained, **changes))

    return make


def weights(setup) -> dict[str, torch.Tensor]:
    return setup.build_method().state_dict()


@pytest.mark.parametrize("method", METHODS)
def test_method_is_rebuilt_bit_for_bit_from_its_saved_settings(setup, method):
    first = setup(method)
    saved = SavedRun.read(json.loads(json.dumps(first.saved_run.settings)))
    torch.rand(5)  # whatever was drawn before
    again = build_method(saved, first.second)
    assert type(again) is type(first.build_method())
    assert again.options == first.options
    assert same_bits(again.state_dict(), weights(first))


@pytest.mark.parametrize("method", METHODS)
def test_another_seed_gives_other_weights(setup, method):
    name = "backbone.conv_proj.weight" if method in MASKED else "backbone.conv1.weight"
    assert not torch.equal(weights(setup(method, seed=3))[name], weights(setup(method, seed=4))[name])


@pytest.mark.parametrize("method", METHODS)
def test_backbones_of_one_seed_are_the_same_for_all_methods(setup, method):
    network = OF_PATCHES if method in MASKED else {}
    own, simsiams = (backbone_weights_of(setup(name, seed=3, **network)) for name in (method, "simsiam"))
    assert same_bits(own, simsiams)


def backbone_weights_of(setup) -> dict[str, torch.Tensor]:
    return setup.build_method().backbone.state_dict()


def test_method_knows_the_facts_of_its_run(setup):
    run = setup("simsiam", epochs=4, steps_per_epoch=None, seed=7, strategy="current").build_method().run
    assert (run.images, run.classes, run.image_size, run.batch_size) == (160, 10, 16, 32)
    assert (run.steps, run.epochs, run.seed, run.epoch_images) == (5, 4, 7, 40)


def test_second_backbone_equals_the_first_without_a_teacher(setup):
    method = setup("simsiam").build_method()
    second, dim = method.run.second_backbone()
    shapes = {name: tensor.shape for name, tensor in second.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in method.backbone.state_dict().items()}
    assert (dim, method.backbone_dim) == (64, 64)


def test_second_backbone_has_the_architecture_of_the_teacher(setup, trained):
    first = setup("distill", arch="resnet18_w16", stem="small")
    method = first.build_method()
    teacher = Checkpoint.load(trained / "checkpoint.pt")
    assert first.saved_run.settings["second_backbone"] == dataclasses.asdict(teacher.run.backbone)
    assert (method.backbone_dim, method.projector.in_features, method.projector.out_features) == (128, 128, 64)
    assert same_bits(dict(method.teacher.state_dict()), backbone_weights(teacher))


def test_method_with_a_teacher_loads_the_teachers_weights_from_its_own_checkpoint(setup):
    first = setup("distill")
    method, again = first.build_method(), build_method(first.saved_run)
    assert not same_bits(dict(again.teacher.state_dict()), dict(method.teacher.state_dict()))
    again.load_state_dict(method.state_dict())
    assert same_bits(again.state_dict(), method.state_dict())


def test_backbone_weights_have_no_prefix(trained):
    checkpoint = Checkpoint.load(trained / "checkpoint.pt")
    found = backbone_weights(checkpoint)
    assert found
    assert all(found[name] is checkpoint.state_dict[f"backbone.{name}"] for name in found)
    assert len(found) == sum(name.startswith("backbone.") for name in checkpoint.state_dict)


def test_teacher_is_read_only_for_methods_that_use_one(trained):
    options = method_options("distill", {"teacher": str(trained / "checkpoint.pt")})
    assert read_teacher("distill", options).epoch == 2
    assert read_teacher("simsiam", method_options("simsiam", {})) is None


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (None, "distill .*--set teacher=FILE"),
        ("gone.pt", r"gone\.pt"),
    ],
)
def test_distillation_without_a_teacher_is_refused(teacher, message):
    with pytest.raises(SSLToolError, match=message):
        read_teacher("distill", method_options("distill", {"teacher": teacher}))
