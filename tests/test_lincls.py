"""The linear probe: what it learns, what it leaves untouched, and what it writes."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ssltool import lincls
from ssltool.config import DataSettings, LinclsConfig
from ssltool.data.datasets import open_dataset
from ssltool.data.loader import Loader
from ssltool.errors import SSLToolError
from ssltool.files import Checkpoint, Probe, file_hash, weights_hash
from ssltool.methods.simsiam import SimSiam
from ssltool.pretrained import load_pretrained

CPU = torch.device("cpu")


@pytest.fixture
def black_and_white(tmp_path):
    """An ImageNet-style folder of dark and of light noise: ``train`` of 20 images each, ``val`` of 10."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 10)):
        for name, low in (("black", 0), ("white", 200)):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(low, low + 56, (16, 16, 3), np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def settings(trained, black_and_white, tmp_path):
    """Settings of a probe of one epoch on the dark and light images: ``settings(lr=1.0) -> LinclsConfig``."""

    def make(**changes) -> LinclsConfig:
        fixed = {
            "pretrained": str(trained / "checkpoint.pt"),
            "data": str(black_and_white),
            "device": "cpu",
            "workers": 0,
            "epochs": 1,
            "batch_size": 20,
            "out": str(tmp_path / "probe"),
        }
        return LinclsConfig(**fixed | changes)

    return make


@pytest.fixture
def on_bundled(settings, tmp_path):
    """The same on 200 of the bundled train images, and all its val images."""
    np.save(tmp_path / "some.npy", np.arange(0, 8000, 40))
    return partial(settings, data=None, idx_path=str(tmp_path / "some.npy"), batch_size=64)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_commands_document_has_both_accuracies_and_what_was_probed(ssltool, on_bundled, trained, tmp_path):
    c = on_bundled()
    flags = ["--pretrained", c.pretrained, "--idx_path", c.idx_path, "--device", "cpu", "-o", c.out]
    ran = ssltool("lincls", *flags, "--epochs", 1, "-b", 64, "--json")
    assert ran.code == 0
    result = ran.json
    assert 0 <= result["acc1"] <= result["acc5"] <= 1
    assert result["backbone_unchanged"] is True
    assert (result["train_size"], result["val_size"], result["classes"]) == (200, 2000, 10)
    assert (result["epochs"], result["batch_size"], result["optimizer"]) == (1, 64, "sgd")
    assert result["checkpoint_hash"] == file_hash(trained / "checkpoint.pt")
    assert result["run"] == str(tmp_path / "probe")
    assert (result["arch"], result["image_size"], result["random"]) == ("resnet18_w8", 16, False)


def test_the_accuracies_are_those_of_the_saved_probe_on_the_val_images(on_bundled, tmp_path):
    result = lincls.run(on_bundled(lr=1.0))
    probe = Probe.load(tmp_path / "probe" / "probe.pt")
    backbone = load_pretrained(on_bundled(), CPU).method.backbone
    images = open_dataset(DataSettings(), "val")
    with torch.no_grad():
        features = torch.cat([backbone(batch.views[0]) for batch in Loader(images, 16, CPU).evaluate(500)])
    ranks = (features @ probe.weight.T + probe.bias).argsort(dim=1, descending=True)
    hits = ranks == torch.from_numpy(images.labels)[:, None]
    # A tie or a rounding difference may turn over one image of 2,000.
    assert result["acc1"] == pytest.approx(float(hits[:, 0].float().mean()), abs=0.0011)
    assert result["acc5"] == pytest.approx(float(hits[:, :5].any(dim=1).float().mean()), abs=0.0011)


def test_the_run_folder_holds_settings_a_record_per_epoch_and_the_probe(settings, tmp_path):
    result = lincls.run(settings(epochs=3))
    assert names(tmp_path / "probe") == {"config.json", "metrics.jsonl", "probe.pt"}
    config = json.loads((tmp_path / "probe" / "config.json").read_text())
    assert (config["epochs"], config["batch_size"], config["origin"]["epoch"]) == (3, 20, 2)
    records = [json.loads(line) for line in (tmp_path / "probe" / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [0, 1, 2]
    # 0.1 x 20 / 256 on half a cosine of three epochs: 1, 3/4, 1/4 of it.
    rate = 0.1 * 20 / 256
    assert [record["lr"] for record in records] == pytest.approx([rate, rate * 0.75, rate * 0.25])
    assert records[-1]["acc1"] == result["acc1"]


def test_the_probe_file_loads_with_its_shapes_settings_and_result(settings, tmp_path):
    result = lincls.run(settings())
    probe = Probe.load(tmp_path / "probe" / "probe.pt")
    assert probe.weight.shape == (2, 64)
    assert probe.bias.shape == (2,)
    assert probe.metrics == result
    assert probe.config["epochs"] == 1


def test_the_checkpoint_and_the_backbone_are_left_as_they_were(settings, trained):
    before = file_hash(trained / "checkpoint.pt")
    result = lincls.run(settings())
    assert file_hash(trained / "checkpoint.pt") == before
    assert result["backbone_hash"] == weights_hash(load_pretrained(settings(), CPU).method.backbone.state_dict())


def test_a_backbone_whose_running_statistics_move_voids_the_result(settings, monkeypatch, tmp_path):
    def careless(config, device):
        network = load_pretrained(config, device)
        backbone = network.method.backbone
        backbone.train = lambda mode=True: nn.Module.train(backbone, True)  # whatever is asked: BN goes on averaging
        return network

    monkeypatch.setattr(lincls, "load_pretrained", careless)
    with pytest.raises(SSLToolError, match="the frozen backbone changed while the probe was trained"):
        lincls.run(settings())
    assert not (tmp_path / "probe" / "probe.pt").exists()


def test_a_backbone_with_one_changed_weight_voids_the_result(settings, monkeypatch):
    evaluate = lincls._Probe.evaluate

    def nudge(probe, loader):
        with torch.no_grad():
            probe.method.backbone.conv1.weight.view(-1)[0] += 1e-6
        return evaluate(probe, loader)

    monkeypatch.setattr(lincls._Probe, "evaluate", nudge)
    with pytest.raises(SSLToolError, match="the frozen backbone changed"):
        lincls.run(settings())


def test_one_seed_gives_one_result_and_another_seed_another(settings, tmp_path):
    probes = []
    for i, seed in enumerate((3, 3, 4)):
        lincls.run(settings(seed=seed, out=str(tmp_path / str(i))))
        probes.append(Probe.load(tmp_path / str(i) / "probe.pt").weight)
    assert torch.equal(probes[0], probes[1])
    assert not torch.equal(probes[0], probes[2])


def test_a_separable_problem_is_learned(settings):
    result = lincls.run(settings(epochs=10, batch_size=40, lr=5.0))
    assert result["acc1"] == 1.0
    assert result["acc5"] == 1.0  # of two classes, the first five are both
    assert (result["classes"], result["train_size"], result["val_size"]) == (2, 40, 20)


def test_the_classifier_sees_what_the_method_makes_of_an_image(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(SimSiam, "embed", lambda method, images, layer: torch.zeros(len(images), method.backbone_dim))
    result = lincls.run(settings(epochs=3, lr=5.0))
    assert result["acc1"] == 0.5  # all images look alike, so all get the same one of two classes


def test_a_larc_step_moves_the_classifier_by_a_thousandth_of_its_norm(settings, tmp_path):
    # One step on all 40 images, lr scaled to 1, no momentum yet: |dW| = 0.001 |W|, and W ~ N(0, 0.01) of 128 numbers.
    assert lincls.run(settings(lars=True, batch_size=40, lr=256 / 40))["optimizer"] == "larc"
    after = Probe.load(tmp_path / "probe" / "probe.pt").weight
    probe = lincls._Probe(load_pretrained(settings(), CPU), settings(), 2, 40, CPU)
    before = probe.classifier.weight.detach()
    assert float((after - before).norm() / before.norm()) == pytest.approx(0.001, rel=1e-3)
    assert float(before.std()) == pytest.approx(0.01, rel=5 / (2 * 128) ** 0.5)
    assert probe.classifier.bias.tolist() == [0.0] * 2


def test_the_number_file_chooses_train_images_and_leaves_val_whole(on_bundled):
    result = lincls.run(on_bundled())
    assert (result["train_size"], result["val_size"]) == (200, 2000)


def test_random_probes_an_untrained_network_of_the_same_make(settings, tmp_path):
    trained = lincls.run(settings(out=str(tmp_path / "a")))
    untrained = lincls.run(settings(out=str(tmp_path / "b"), random=True))
    assert untrained["backbone_hash"] != trained["backbone_hash"]
    assert (untrained["random"], untrained["epoch"]) == (True, 0)


def test_a_folder_that_holds_a_run_is_refused_before_training_and_replaced_where_asked(settings, tmp_path):
    lincls.run(settings())
    before = (tmp_path / "probe" / "probe.pt").read_bytes()
    with pytest.raises(SSLToolError, match="already holds a run"):
        lincls.run(settings(seed=5))
    assert (tmp_path / "probe" / "probe.pt").read_bytes() == before
    lincls.run(settings(seed=5, overwrite=True))
    assert (tmp_path / "probe" / "probe.pt").read_bytes() != before


def test_without_out_the_run_folder_is_named_after_the_pretrained_run(settings, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert lincls.run(settings(out=None))["run"] == "logs/lincls-run_0000"
    assert lincls.run(settings(out=None, random=True, exp_id=3))["run"] == "logs/lincls-untrained_0003"


def test_unlabelled_images_are_refused_before_a_folder_is_made(settings, write_images, tmp_path):
    for split in ("train", "val"):
        write_images(tmp_path / "pile" / split, 4)
    with pytest.raises(SSLToolError, match="imagenet train has no labels; labelled images are needed as DATA"):
        lincls.run(settings(data=str(tmp_path / "pile")))
    assert not (tmp_path / "probe").exists()


def test_val_classes_that_train_lacks_are_refused(settings, tmp_path):
    few = tmp_path / "few.npy"
    np.save(few, np.arange(20))  # the first class only
    with pytest.raises(SSLToolError, match="the val images have classes beyond the 1 of the train images"):
        lincls.run(settings(idx_path=str(few)))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_dataset_type_that_names_one_split_for_both_is_refused(settings, split):
    with pytest.raises(SSLToolError, match=f"--dataset-type imagenet_{split} names one split"):
        lincls.run(settings(dataset_type=f"imagenet_{split}"))


def test_a_loss_that_is_not_finite_stops_the_probe(settings, tmp_path):
    with pytest.raises(SSLToolError, match=r"the probe's loss is not finite in epoch \d; lower --lr"):
        lincls.run(settings(lr=3e38, batch_size=256, epochs=3))
    metrics = (tmp_path / "probe" / "metrics.jsonl").read_text()
    assert metrics.count("\n") < 3 and "NaN" not in metrics


def test_the_backbone_of_another_architecture_is_refused(settings):
    with pytest.raises(SSLToolError, match="--arch is resnet18, but"):
        lincls.run(settings(arch="resnet18"))


def test_a_damaged_checkpoint_is_refused(settings, trained, tmp_path):
    whole = (trained / "checkpoint.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SSLToolError, match=r"cut\.pt is not a readable \.pt file"):
        lincls.run(settings(pretrained=str(tmp_path / "cut.pt")))
    assert Checkpoint.load(trained / "checkpoint.pt").arch == "resnet18_w8"
