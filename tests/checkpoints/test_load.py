"""What the later stages start from: the contract of ``load_pretrained``, whoever trained the network."""

from __future__ import annotations

import hashlib
import urllib.error

import pytest
import torch
import torchvision

from checkpoint_helpers import bare, moco_vit, noise, plain_resnet18, resnet, simsiam, vit
from helpers import same_bits
from ssltool.checkpoints.build import backbone_weights, read_teacher
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.load import Pretrained, default_run_name, load_pretrained, use_saved_dataset
from ssltool.config import LinclsConfig, NetworkSettings, SaveReprsConfig
from ssltool.data.images import open_dataset
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET
from ssltool.errors import SSLToolError
from ssltool.files.reading import file_hash
from ssltool.methods import method_options
from ssltool.methods.base import Method
from ssltool.reprs.representations import Representations

CPU = torch.device("cpu")


@pytest.fixture
def foreign(tmp_path):
    """A checkpoint of the official SimSiam."""
    torch.save(simsiam().entries, tmp_path / "simsiam.pth.tar")
    return str(tmp_path / "simsiam.pth.tar")


def load(pretrained: object, *, seed: int | None = None, **settings) -> Pretrained:
    return load_pretrained(SaveReprsConfig(pretrained=str(pretrained), device="cpu", **settings), CPU, seed=seed)


def weights(network: Pretrained) -> dict[str, torch.Tensor]:
    return dict(network.method.backbone.state_dict())


def test_config_has_every_setting_of_a_run_that_trained(foreign, trained):
    ours = load(trained / "checkpoint.pt").run.settings
    assert ours.keys() <= load(foreign).run.settings.keys()
    assert "program" not in ours and load(foreign).run.program == "simsiam"


def test_origin_has_the_same_keys_for_every_program(foreign, trained):
    ours, theirs = load(trained / "checkpoint.pt").origin, load(foreign).origin
    assert ours.keys() == theirs.keys()
    assert (ours["program"], theirs["program"]) == ("ssltool", "simsiam")
    assert (theirs["checkpoint"], theirs["checkpoint_hash"]) == (foreign, file_hash(foreign))
    assert (ours["epoch"], theirs["epoch"], theirs["strategy"]) == (2, 100, None)


def test_network_of_another_program_is_only_its_backbone(foreign):
    network = load(foreign)
    assert type(network.method) is Method and not network.method.training
    assert network.method.backbone_dim == network.method.max_rank("backbone") == 64
    with pytest.raises(SSLToolError, match="--layer projector"):
        network.method.embed(noise(), "projector")


def test_untrained_network_depends_on_the_seed(foreign, trained):
    for file in (foreign, trained / "checkpoint.pt"):
        own, one, again, other = (
            weights(load(file, random=random, seed=seed))
            for random, seed in ((False, 1), (True, 1), (True, 1), (True, 2))
        )
        assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in one.items()}
        assert same_bits(one, again) and not same_bits(one, other) and not same_bits(one, own)
        assert load(file, random=True).origin["epoch"] == 0 and load(file, random=True).origin["random"]


@pytest.mark.parametrize("image_size", [16, 48])
def test_vit_takes_images_of_another_size(tmp_path, image_size):
    torch.save(vit().state_dict(), tmp_path / "vit.pth")
    network = load(tmp_path / "vit.pth", image_size=image_size)
    assert (network.image_size, network.run.backbone.image_size, network.origin["image_size"]) == (
        image_size,
        32,
        image_size,
    )
    assert network.method.embed(noise(image_size), "backbone").shape == (3, 192)
    with pytest.raises(SSLToolError, match=r" 20 pixels .* 8 pixels"):
        network.method.embed(noise(20), "backbone")


def test_flags_that_contradict_a_checkpoint_of_ssltool_are_refused(trained):
    with pytest.raises(SSLToolError, match=r"--arch .*resnet18, .*resnet18_w8"):
        load(trained / "checkpoint.pt", arch="resnet18")


def test_several_processes_are_refused_unless_the_stage_supports_them(foreign, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SSLToolError, match="torchrun"):
        load(foreign)
    load_pretrained(SaveReprsConfig(pretrained=foreign), CPU, ranks=True)


def test_checkpoint_is_required():
    with pytest.raises(SSLToolError, match="--pretrained FILE"):
        load_pretrained(SaveReprsConfig(), CPU)


# Data


def test_default_data_are_the_bundled_images_with_a_message_for_other_programs(foreign, trained, capsys):
    for file, said in ((foreign, True), (trained / "checkpoint.pt", False)):
        config = use_saved_dataset(SaveReprsConfig(pretrained=str(file)), load(file).run)
        assert (config.data, config.dataset_type) == (None, "bundled")
        assert ("bundled images" in capsys.readouterr().err) is said
    named = SaveReprsConfig(pretrained=foreign, dataset_type="bundled")
    assert use_saved_dataset(named, load(foreign).run) == named
    capsys.readouterr()
    use_saved_dataset(named, load(trained / "checkpoint.pt").run)
    assert capsys.readouterr().err == ""


# Untrained networks


def test_random_is_an_untrained_network_of_the_named_architecture():
    network = load("random", arch="resnet18_w8", stem="small-stride2", image_size=16)
    backbone = network.run.backbone
    assert (backbone.arch, backbone.stem, network.image_size) == ("resnet18_w8", "small-stride2", 16)
    assert network.origin | {"checkpoint_hash": None} == {
        "checkpoint": "random",
        "checkpoint_hash": None,
        "random": True,
        "program": "ssltool",
        "method": "untrained",
        "arch": "resnet18_w8",
        "stem": "small-stride2",
        "strategy": None,
        "epoch": 0,
        "image_size": 16,
        "preprocessing": IMAGENET.at(16).record(),
    }


def test_random_weights_follow_the_seed_of_the_settings_or_the_one_given():
    def of(seed: int, given: int | None = None) -> dict[str, torch.Tensor]:
        config = LinclsConfig(pretrained="random", arch="resnet18_w8", image_size=16, seed=seed)
        return weights(load_pretrained(config, CPU, seed=given))

    assert same_bits(of(1), of(1)) and same_bits(of(1), of(2, given=1)) and not same_bits(of(1), of(2))
    first, second = (load("random", arch="resnet18_w8", image_size=16, seed=seed).origin for seed in (1, 2))
    assert first["checkpoint_hash"] != second["checkpoint_hash"]


def test_random_network_is_built_for_the_bundled_image_size_or_224_pixels(tmp_path):
    assert load("random", arch="resnet18_w8").image_size == 28
    assert load("random", arch="resnet18_w8").origin["stem"] == "small"
    network = load("random", arch="resnet18_w8", data=str(tmp_path))
    assert (network.image_size, network.origin["stem"]) == (224, "imagenet")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "--pretrained random .*-a NAME"),
        ({"arch": "resnet81"}, "'resnet81'"),
        ({"arch": "vit_small", "stem": "small"}, "--stem small"),
    ],
)
def test_invalid_settings_of_an_untrained_network_are_refused(settings, message):
    with pytest.raises(SSLToolError, match=message):
        load("random", **settings)


# torchvision's weights


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """The folder of torch's cache, empty, and without a network behind it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def no_network(*args: object, **settings: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_torchvisions_weights_are_taken_from_its_cache(cached):
    published = torchvision.models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    model = plain_resnet18()
    torch.save(model.state_dict(), cached / published)
    network = load("torchvision:DEFAULT", arch="resnet18")
    model.fc = torch.nn.Identity()
    with torch.inference_mode():
        torch.testing.assert_close(network.method.embed(noise(), "backbone"), model(noise()))
    origin = network.origin
    assert (origin["checkpoint"], origin["program"], origin["arch"]) == (
        "torchvision:DEFAULT",
        "torchvision",
        "resnet18",
    )
    assert origin["checkpoint_hash"] == hashlib.sha256((cached / published).read_bytes()).hexdigest()
    scratch = load("torchvision:DEFAULT", arch="resnet18", random=True, seed=3)
    assert not same_bits(weights(scratch), weights(network))


def test_failed_download_names_the_path_of_the_file(cached):
    with pytest.raises(SSLToolError) as error:
        load("torchvision:IMAGENET1K_V1", arch="resnet50")
    name = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    assert str(cached / name) in str(error.value)
    assert "\n" not in str(error.value)
    assert list(cached.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "arch", "message"),
    [
        ("DEFAULT", None, "-a NAME"),
        ("DEFAULT", "resnet18_w16", "'resnet18_w16'"),
        ("IMAGENET1K_V9", "resnet18", "resnet18 'IMAGENET1K_V9'.* IMAGENET1K_V1"),
        ("", "vit_base", "vit_base ''"),
    ],
)
def test_weights_that_torchvision_does_not_publish_are_refused(cached, name, arch, message):
    with pytest.raises(SSLToolError, match=message):
        load(f"torchvision:{name}", arch=arch)


# Through the stages


def test_foreign_checkpoint_goes_through_save_reprs_to_knn(ssltool, foreign, tmp_path):
    saved = ssltool(
        *("save-reprs", "--pretrained", foreign, "--split", "both", "--sample", "40", "--image-size", "32"),
        *("-o", tmp_path / "reprs", "--device", "cpu"),
    )
    assert saved.code == 0, saved.err
    assert "simsiam checkpoint" in saved.err and "bundled images" in saved.err
    train, val = (tmp_path / "reprs" / f"{split}_reprs_e0.pt" for split in ("train", "val"))
    assert Representations.load(train).meta["program"] == "simsiam"
    found = ssltool("knn", train, val, "-k", "5", "--json")
    assert found.code == 0 and 0 <= found.json["accuracy"] <= 1


def test_representations_are_those_of_the_original_network(ssltool, foreign, tmp_path):
    done = ssltool(
        *("save-reprs", "--pretrained", foreign, "--image-size", "28", "--sample", "8"),
        *("-o", tmp_path / "r.pt", "--device", "cpu"),
    )
    assert done.code == 0, done.err
    rows = Representations.load(tmp_path / "r.pt")
    images = open_dataset(SaveReprsConfig(), "train").select(rows.index.numpy())
    loader = Loader(images, IMAGENET.at(28), CPU, 0)
    (view,) = [batch.views[0] for batch in loader.evaluate(8)]
    with torch.inference_mode():
        torch.testing.assert_close(rows.representations, simsiam().network(view), rtol=1e-4, atol=1e-4)


def test_foreign_checkpoint_of_unknown_epoch_can_be_ranked(ssltool, tmp_path):
    torch.save(bare().entries, tmp_path / "bare.pth")
    for name in ("a.pt", "b.pt"):
        done = ssltool(
            *("save-reprs", "--pretrained", tmp_path / "bare.pth", "--sample", "40", "--image-size", "32"),
            *("-o", tmp_path / name, "--device", "cpu"),
        )
        assert done.code == 0, done.err
    ranked = ssltool("rank", tmp_path / "a.pt", tmp_path / "b.pt", "--json")
    assert ranked.code == 0, ranked.err


def test_distill_takes_its_teacher_from_another_program(ssltool, foreign, tmp_path):
    options = method_options("distill", {"teacher": foreign})
    teacher = read_teacher("distill", options)
    assert teacher is not None and same_bits(backbone_weights(teacher), dict(resnet().state_dict()))
    flags = ["-a", "resnet18_w8", "--stem", "small-stride2", "--image-size", "16", "--epochs", "1"]
    done = ssltool(
        *("pretrain", "--method", "distill", "--teacher-checkpoint", foreign, *flags, "--steps-per-epoch", "2"),
        *("-b", "16", "--device", "cpu", "-o", tmp_path / "run", "--monitor-every", "0"),
    )
    assert done.code == 0, done.err
    student = Checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    assert student.config["second_backbone"]["arch"] == "resnet18_w8"
    own = {k.removeprefix("teacher."): v for k, v in student.state_dict.items() if k.startswith("teacher.")}
    assert same_bits(own, dict(resnet().state_dict()))
    assert load(tmp_path / "run" / "checkpoint.pt").method.embed(noise(16), "projector").shape == (3, 64)


def test_vit_teacher_keeps_its_own_size(tmp_path):
    torch.save(moco_vit().state_dict(), tmp_path / "vit.pth")
    teacher = read_teacher("distill", method_options("distill", {"teacher": str(tmp_path / "vit.pth")}))
    assert teacher is not None and teacher.config["image_size"] == 32


@pytest.mark.parametrize(
    ("pretrained", "random", "name"),
    [
        ("logs/mine_0003/checkpoint.pt", False, "scan-mine_0003"),
        ("logs/mine_0003/checkpoint.pt", True, "scan-untrained"),
        ("random", False, "scan-untrained"),
        ("torchvision:DEFAULT", False, "scan-torchvision-DEFAULT"),
    ],
)
def test_a_run_is_named_after_its_network(pretrained, random, name):
    assert default_run_name("scan", NetworkSettings(pretrained=pretrained, random=random)) == name


@pytest.mark.parametrize("command", ["lincls", "finetune", "scan"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_no_stage_trains_on_a_diverged_network_and_the_message_says_so(ssltool, trained, tmp_path, command, value):
    checkpoint = Checkpoint.load(trained / "checkpoint.pt")
    checkpoint.state_dict["backbone.bn1.running_var"] = torch.full((8,), float(value))
    checkpoint.save(tmp_path / "broken.pt")
    ran = ssltool(command, "--pretrained", tmp_path / "broken.pt", "--device", "cpu", "-j", 0, "-o", tmp_path / "run")
    assert ran.code == 1 and "backbone.bn1.running_var" in ran.err and "diverged" in ran.err and "--lr" not in ran.err
    assert not (tmp_path / "run").exists()
