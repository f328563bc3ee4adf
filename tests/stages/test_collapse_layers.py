"""collapse --layers: each layer as save-reprs and collapse measure it, and where in depth the collapse begins."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest
import torch

from checkpoint_helpers import resnet
from helpers import error_message, usage_message
from ssltool.checkpoints.build import build_method
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.config import CollapseLayersConfig
from ssltool.diagnosis.layer_sums import LAYER_METRICS
from ssltool.diagnosis.patch_sums import PATCH_METRICS
from ssltool.errors import SSLToolError
from ssltool.stages.collapse import run_layers
from ssltool.stages.pretrain import run as pretrain

HERE = ["--device", "cpu", "-j", "0"]
FEW = [*HERE, "--sample", "48"]
VIT = "timm:vit_tiny_patch16_224,depth=2,embed_dim=48,num_heads=2,patch_size=8"
RESNET_LAYERS = [f"backbone.layer{stage}.{i}" for stage in range(1, 5) for i in range(2)]
ALL_LAYERS = [*RESNET_LAYERS, "backbone", "projector", "predictor"]


def saved(like, path, state, **changes):
    """A checkpoint with other weights."""
    dataclasses.replace(Checkpoint.load(like), state_dict=state, **changes).save(path)
    return path


@pytest.fixture
def checkpoint(trained):
    return trained / "checkpoint.pt"


@pytest.fixture
def collapsed_from(checkpoint, tmp_path):
    """A checkpoint whose block ``layerN.0`` and all deeper ones put out the same for every image."""

    def make(block: str, **changes):
        state = {name: value.clone() for name, value in Checkpoint.load(checkpoint).state_dict.items()}
        for part in ("bn2", "downsample.1"):
            for kind in ("weight", "bias"):
                state[f"backbone.{block}.{part}.{kind}"].zero_()
        return saved(checkpoint, tmp_path / f"{block}.pt", state, **changes)

    return make


def measured_alone(ssltool, folder, checkpoint, layer, images, *flags):
    """The metrics of a layer by save-reprs and collapse."""
    file = folder / f"{layer}.pt"
    assert (
        ssltool("save-reprs", images, "--pretrained", checkpoint, "--layer", layer, *flags, *HERE, "-o", file).code == 0
    )
    ran = ssltool("collapse", file, "--metrics", ",".join(LAYER_METRICS), "--json")
    return ran.json["files"][0]


def test_each_layer_has_the_metrics_of_its_saved_representations(ssltool, checkpoint, shades, tmp_path):
    ran = ssltool("collapse", "--layers", checkpoint, "--data", shades, *HERE, "--json")
    (network,) = ran.json["networks"]
    layers = {one["layer"]: one for one in network["layers"]}
    assert (list(layers), network["n"]) == (ALL_LAYERS, 48)
    for layer in ("backbone.layer1.1", "backbone.layer3.0", "backbone", "projector", "predictor"):
        alone = measured_alone(ssltool, tmp_path, checkpoint, layer, shades)
        assert layers[layer]["metrics"] == pytest.approx(alone["metrics"], rel=1e-10)
        assert layers[layer]["d"] == alone["d"]


def test_the_blocks_of_a_vit_have_the_metrics_of_their_saved_class_tokens(ssltool, tiny, shades, tmp_path):
    options = {"method": "mocov3", "options": ("dim=8", "hidden=16", "momentum=0.5"), "dim": None, "pred_dim": None}
    run = pretrain(tiny(arch=VIT, stem="auto", **options, epochs=1, monitor_every=0, workers=0))
    ran = ssltool("collapse", "--layers", run, "--data", shades, *HERE, "--json")
    (network,) = ran.json["networks"]
    assert network["pooled"] == "the class token of each block"
    names = [one["layer"] for one in network["layers"]]
    assert names == ["backbone.blocks.0", "backbone.blocks.1", "backbone", "projector", "predictor"]
    for one in network["layers"][:3]:
        alone = measured_alone(ssltool, tmp_path, run / "checkpoint.pt", one["layer"], shades)
        assert {name: one["metrics"][name] for name in LAYER_METRICS} == pytest.approx(alone["metrics"], rel=1e-10)
        assert 0 < one["cka"]["teacher_network"] < 1
    assert network["layers"][-1]["cka"]["teacher_network"] is None  # a teacher has no predictor
    tokens = tmp_path / "tokens.pt"
    flags = ("--layer", "backbone.blocks.1", "--tokens", "patch", *HERE, "-o", tokens)
    assert ssltool("save-reprs", shades, "--pretrained", run / "checkpoint.pt", *flags).code == 0
    (alone,) = ssltool("collapse", tokens, "--metrics", ",".join(PATCH_METRICS), "--json").json["files"]
    of_patches = {name: network["layers"][1]["metrics"][name] for name in PATCH_METRICS}
    assert of_patches == pytest.approx(alone["metrics"], rel=1e-10)
    assert not {*PATCH_METRICS} & network["layers"][2]["metrics"].keys()


@pytest.mark.parametrize("block", ["layer2.0", "layer4.0"])
def test_collapse_begins_at_the_first_of_the_blocks_that_put_out_the_same_for_all_images(
    ssltool, collapsed_from, block
):
    ran = ssltool("collapse", "--layers", collapsed_from(block), *FEW, "--json", "--fail-on", "complete")
    (network,) = ran.json["networks"]
    states = {one["layer"]: one["verdict"]["state"] for one in network["layers"]}
    first = ALL_LAYERS.index(f"backbone.{block}")
    assert (ran.code, network["begins"], network["state"]) == (3, f"backbone.{block}", "complete")
    assert [states[layer] for layer in ALL_LAYERS[:first]] == ["healthy"] * first
    assert {states[layer] for layer in ALL_LAYERS[first:]} == {"complete"}
    assert f"collapse begins at backbone.{block}, layer {first + 1} of 11" in network["line"]


def test_a_network_has_cka_one_with_itself_and_less_with_another(ssltool, checkpoint, collapsed_from, tmp_path):
    state = Checkpoint.load(checkpoint).state_dict
    same = saved(checkpoint, tmp_path / "same.pt", state, epoch=3)
    ran = ssltool("collapse", "--layers", collapsed_from("layer3.0", epoch=4), same, checkpoint, *FEW, "--json")
    first, second, third = ran.json["networks"]
    assert [one["epoch"] for one in (first, second, third)] == [2, 3, 4]  # their order, not that of the command line
    assert all("previous" not in one["cka"] for one in first["layers"])
    assert [one["cka"]["previous"] for one in second["layers"]] == pytest.approx([1] * 11)
    similar = {one["layer"]: one["cka"]["previous"] for one in third["layers"]}
    assert similar["backbone.layer2.1"] == pytest.approx(1)
    assert similar["backbone.layer3.0"] is similar["backbone"] is None  # equal rows have no CKA


def test_the_untrained_network_is_that_from_which_the_run_began(ssltool, checkpoint, tmp_path):
    run = Checkpoint.load(checkpoint).run
    start = saved(checkpoint, tmp_path / "start.pt", build_method(run).state_dict())
    network = ssltool("collapse", "--layers", start, *FEW, "--json").json["networks"][0]
    for one in network["layers"]:
        assert one["metrics"] == pytest.approx(one["untrained"], rel=1e-9)
        assert one["cka"]["untrained"] == pytest.approx(1)
        assert one["verdict"]["state"] == "healthy" or one["layer"] in ("backbone", "projector", "predictor")


def test_a_foreign_checkpoint_has_its_backbone_measured(ssltool, tmp_path):
    student, teacher = resnet(0), resnet(1)
    path = tmp_path / "foreign.pth"
    torch.save({"student": student.state_dict(), "teacher": teacher.state_dict(), "epoch": 3}, path)
    command = ("collapse", "--layers", path, "--key", "student", *FEW, "--image-size", 32, "--json")
    (network,) = ssltool(*command).json["networks"]
    assert [one["layer"] for one in network["layers"]] == [*RESNET_LAYERS, "backbone"]
    assert list(network["layers"][0]["cka"]) == ["untrained"]
    for key, least, most in (("student", 0.999999, 1.0), ("teacher", 0.0, 0.99)):
        layers = ssltool(*command, "--teacher-key", key).json["networks"][0]["layers"]
        assert all(least <= one["cka"]["teacher_network"] <= most for one in layers)


def test_an_untrained_network_is_compared_with_none(ssltool):
    (network,) = ssltool("collapse", "--layers", "random", "-a", "resnet18_w8", *FEW, "--json").json["networks"]
    assert {one["untrained"] for one in network["layers"]} == {None}
    assert {tuple(one["cka"]) for one in network["layers"]} == {()}


def test_the_table_names_the_layers_and_the_files_hold_them_all(ssltool, checkpoint, collapsed_from, tmp_path):
    out, document, figure = tmp_path / "layers.csv", tmp_path / "layers.json", tmp_path / "depth.svg"
    broken = collapsed_from("layer3.0", epoch=5)
    ran = ssltool("collapse", "--layers", checkpoint, broken, *FEW, "-o", out, "--plot", figure)
    assert ran.code == 0
    assert [
        line.split()[0] for line in ran.out.splitlines() if line.startswith(("backbone", "pro", "pre"))
    ] == ALL_LAYERS * 2
    assert "collapse begins at backbone.layer3.0" in ran.out
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["layer"] for row in rows] == ALL_LAYERS * 2
    assert {row["path"] for row in rows} == {str(checkpoint), str(broken)}
    assert all(float(row["untrained_effective_rank"]) > 0 for row in rows)
    text = figure.read_text()
    assert "Effective rank" in text and "layer3.0" in text and "untrained" in text
    assert ssltool("collapse", "--layers", checkpoint, *FEW, "-o", document).code == 0
    assert json.loads(document.read_text())["networks"][0]["path"] == str(checkpoint)


def test_the_sample_is_that_of_save_reprs(ssltool, checkpoint, shades, tmp_path):
    """Also of a run whose seed is not the default."""
    run = Checkpoint.load(checkpoint).run.updated(seed=3)
    other = saved(checkpoint, tmp_path / "other.pt", Checkpoint.load(checkpoint).state_dict, config=run.settings)
    ran = ssltool("collapse", "--layers", other, "--data", shades, *HERE, "--sample", 20, "--json")
    layers = {one["layer"]: one["metrics"] for one in ran.json["networks"][0]["layers"]}
    alone = measured_alone(ssltool, tmp_path, other, "backbone", shades, "--sample", 20)
    assert alone["n"] == 20 and layers["backbone"] == pytest.approx(alone["metrics"], rel=1e-10)
    given = ("--sample", 20, "--seed", 4, "--json")
    ran = ssltool("collapse", "--layers", other, "--data", shades, *HERE, *given)
    another = {one["layer"]: one["metrics"] for one in ran.json["networks"][0]["layers"]}
    assert another["backbone"] != pytest.approx(alone["metrics"], rel=1e-3)


@pytest.mark.parametrize("unrelated", ["seed", "folder", "epoch"])
def test_only_checkpoints_of_one_run_are_compared_with_the_previous_one(ssltool, checkpoint, tmp_path, unrelated):
    loaded = Checkpoint.load(checkpoint)
    changes = {"seed": {"seed": 3}, "folder": {"lr": 0.5}, "epoch": {}}[unrelated]
    settings = loaded.run.updated(**changes).settings
    epoch = loaded.epoch + (unrelated != "epoch")
    second = saved(checkpoint, tmp_path / "second.pt", loaded.state_dict, config=settings, epoch=epoch)
    ran = ssltool("collapse", "--layers", checkpoint, second, *FEW, "--json")
    assert [len(ran.json["networks"]), *{tuple(one["cka"]) for one in ran.json["networks"][1]["layers"]}] == [
        2,
        ("untrained",),
    ]


def test_layers_that_shrank_against_the_untrained_network_are_a_collapse_of_the_scale(ssltool, checkpoint, tmp_path):
    state = Checkpoint.load(checkpoint).state_dict
    for name in ("bn2.weight", "bn2.bias", "downsample.1.weight", "downsample.1.bias"):
        state[f"backbone.layer4.0.{name}"] *= 1e-3
    for name in ("bn2.weight", "bn2.bias"):
        state[f"backbone.layer4.1.{name}"] *= 1e-3
    small = saved(checkpoint, tmp_path / "small.pt", state)
    for path, code in ((small, 3), (checkpoint, 0)):
        ran = ssltool("collapse", "--layers", path, *FEW, "--fail-on", "scale", "--json")
        layers = {one["layer"]: one for one in ran.json["networks"][0]["layers"]}
        (asked,) = layers["backbone"]["asked"]
        ratio = layers["backbone"]["metrics"]["total_variance"] / layers["backbone"]["untrained"]["total_variance"]
        assert (ran.code, asked["shown"]) == (code, code == 3)
        assert asked["numbers"]["variance_ratio"] == pytest.approx(ratio)
    assert f"variance_ratio {ratio:.4g}" in ssltool("collapse", "--layers", path, *FEW, "--fail-on", "scale").out


def test_a_run_folder_is_its_newest_checkpoint(ssltool, trained):
    assert ssltool("collapse", "--layers", trained, *FEW, "--json").json["networks"][0]["epoch"] == 2


def test_memory_and_results_do_not_depend_on_the_batches(checkpoint):
    few = {"files": (str(checkpoint),), "sample": 48, "device": "cpu", "workers": 0}
    one, other = (run_layers(CollapseLayersConfig(**few, batch_size=size))["networks"][0] for size in (48, 7))
    for a, b in zip(one["layers"], other["layers"], strict=True):
        assert a["metrics"] == pytest.approx(b["metrics"], rel=1e-4)  # batches of other sizes round differently
        assert a["cka"]["untrained"] == pytest.approx(b["cka"]["untrained"], rel=1e-4)


def test_settings_of_the_other_kind_are_refused(ssltool, checkpoint, write_reprs):
    file = write_reprs("a.pt", torch.randn(20, 4))
    assert "--merge does nothing with --layers" in usage_message(ssltool("collapse", "--layers", checkpoint, "--merge"))
    assert "--sample does nothing without --layers" in usage_message(ssltool("collapse", file, "--sample", 5))
    assert "--data does nothing without --layers" in usage_message(ssltool("collapse", file, "--data", "x"))
    assert ".csv or .json" in usage_message(ssltool("collapse", "--layers", checkpoint, "-o", "folder"))
    assert ".png" in usage_message(ssltool("collapse", "--layers", checkpoint, "--plot", "a.txt"))


def test_files_that_are_no_usable_network_are_one_line(ssltool, checkpoint, write_reprs, shades, tmp_path):
    reprs = write_reprs("a.pt", torch.randn(20, 4))
    for file in (tmp_path / "missing.pt", reprs):
        assert str(file) in error_message(ssltool("collapse", "--layers", file, *FEW))
    state = {name: value.clone() for name, value in Checkpoint.load(checkpoint).state_dict.items()}
    state["backbone.layer2.0.conv1.weight"][0] = torch.nan
    broken = saved(checkpoint, tmp_path / "nan.pt", state)
    assert "backbone.layer2.0.conv1.weight has NaN" in ssltool("collapse", "--layers", broken, *FEW).err
    ran = ssltool("collapse", "--layers", checkpoint, "--teacher-key", "teacher", *FEW)
    assert (ran.code, "--teacher-key teacher has no effect" in ran.err) == (1, True)
    state["backbone.layer2.0.conv1.weight"][0] = 0.0
    state["backbone.layer3.0.bn1.weight"].fill_(1e30)
    state["backbone.layer3.0.bn2.weight"].fill_(1e30)
    huge = saved(checkpoint, tmp_path / "huge.pt", state)
    assert f"{huge}: backbone.layer3.0 gives NaN or infinite values" in ssltool("collapse", "--layers", huge, *FEW).err
    with pytest.raises(SSLToolError, match="at least"):
        run_layers(CollapseLayersConfig(files=(str(checkpoint),), sample=1))
