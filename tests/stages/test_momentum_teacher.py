"""``--momentum-teacher``: the later stages use the momentum teacher in a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssltool.checkpoints.build import build_method
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.config import DataSettings
from ssltool.data.images import open_dataset
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET
from ssltool.files.stored import weights_hash
from ssltool.reprs.representations import Representations
from ssltool.stages.pretrain import run as pretrain
from tiny_methods import tiny_config

N = 6


@pytest.fixture(scope="module", params=["byol", "dino", "teacher"])
def checkpoint(request, tmp_path_factory, trained):
    """A checkpoint of a method whose teacher differs from its student."""
    folder = tmp_path_factory.mktemp(request.param)
    return pretrain(tiny_config(request.param, folder / "run", trained, lr=0.5)) / "checkpoint.pt"


@pytest.fixture
def save(ssltool, tmp_path):
    """Representations of the first val images: ``save(checkpoint, "--momentum-teacher") -> Representations``."""
    np.save(tmp_path / "first.npy", np.arange(N))

    def run(path, *flags):
        fixed = ["--pretrained", path, "--device", "cpu", "--idx_path", tmp_path / "first.npy", "--split", "val"]
        ran = ssltool("save-reprs", *fixed, *flags, "-o", tmp_path / "reprs.pt")
        assert ran.code == 0
        return Representations.load(tmp_path / "reprs.pt")

    return run


@pytest.mark.parametrize("layer", ["backbone", "projector"])
def test_the_rows_are_those_of_the_teachers_modules(checkpoint, save, layer):
    saved = Checkpoint.load(checkpoint)
    model = build_method(saved.run)
    model.load_state_dict(saved.state_dict)
    model.eval()
    for name in ("backbone", "projector"):
        getattr(model, name).load_state_dict(model.teacher[name].state_dict())
    (batch,) = Loader(
        open_dataset(DataSettings(), "val").select(np.arange(N)), IMAGENET.at(16), torch.device("cpu")
    ).evaluate(N)
    wanted = model.embed(batch.views[0], layer).detach()
    found = save(checkpoint, "--momentum-teacher", "--layer", layer)
    torch.testing.assert_close(found.representations, wanted)
    assert found.meta["momentum_teacher"] is True


def test_teacher_and_student_are_different_networks_with_different_hashes(checkpoint, save):
    student, teacher = save(checkpoint), save(checkpoint, "--momentum-teacher")
    assert not torch.equal(student.representations, teacher.representations)
    assert student.meta["checkpoint_hash"] != teacher.meta["checkpoint_hash"]
    assert "momentum_teacher" not in student.meta


def test_a_linear_probe_is_trained_on_the_teachers_backbone(checkpoint, ssltool, tmp_path):
    np.save(tmp_path / "few.npy", np.arange(64))
    flags = ["--idx-path", tmp_path / "few.npy", "--epochs", 1, "--batch-size", 32, "--device", "cpu"]
    ran = ssltool(
        "lincls", "--pretrained", checkpoint, "--momentum-teacher", *flags, "-o", tmp_path / "probe", "--json"
    )
    assert ran.code == 0
    weights = Checkpoint.load(checkpoint).state_dict
    prefix = "teacher.backbone."
    teacher = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
    assert ran.json["backbone_hash"] == weights_hash(teacher)


def test_a_network_without_a_momentum_teacher_is_refused(ssltool, trained, tmp_path):
    ran = ssltool(
        "save-reprs", "--pretrained", trained / "checkpoint.pt", "--momentum-teacher", "-o", tmp_path / "r.pt"
    )
    assert ran.code == 1 and len(ran.err.strip().splitlines()) == 1 and "--momentum-teacher" in ran.err
    assert not (tmp_path / "r.pt").exists()


def test_an_untrained_network_has_no_teacher(ssltool, checkpoint, tmp_path):
    ran = ssltool("save-reprs", "--pretrained", checkpoint, "--momentum-teacher", "--random", "-o", tmp_path / "r.pt")
    assert ran.code == 2 and "--momentum-teacher" in ran.err
