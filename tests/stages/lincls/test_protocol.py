"""The linear probe on images: its protocol, its accuracy, and its files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from ssltool import seeds
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.load import load_pretrained
from ssltool.checkpoints.probe import Probe
from ssltool.config import DataSettings
from ssltool.data.images import open_dataset
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET
from ssltool.errors import SSLToolError
from ssltool.files.reading import file_hash
from ssltool.files.stored import weights_hash
from ssltool.methods.simsiam import SimSiam
from ssltool.stages import lincls
from ssltool.stages.lincls import image_features, sgd
from ssltool.stages.lincls.image_features import ImageFeatures
from ssltool.training.classification import linear_classifier

CPU = torch.device("cpu")


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_json_document_has_the_accuracies_and_describes_the_network(ssltool, on_bundled, trained, tmp_path):
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
    scored = open_dataset(DataSettings(), "val")
    with torch.no_grad():
        features = torch.cat([backbone(batch.views[0]) for batch in Loader(scored, IMAGENET.at(16), CPU).evaluate(500)])
    ranks = (features @ probe.weight.T + probe.bias).argsort(dim=1, descending=True)
    hits = ranks == torch.from_numpy(scored.labels)[:, None]
    # A tie or a rounding difference may turn over one image of 2,000.
    assert result["acc1"] == pytest.approx(float(hits[:, 0].float().mean()), abs=0.0011)
    assert result["acc5"] == pytest.approx(float(hits[:, :5].any(dim=1).float().mean()), abs=0.0011)


def test_the_run_folder_holds_settings_a_record_per_epoch_and_the_probe(settings, tmp_path):
    result = lincls.run(settings(epochs=3))
    assert names(tmp_path / "probe") == {"config.json", "images.jsonl", "val_images.jsonl", "metrics.jsonl", "probe.pt"}
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


def test_the_checkpoint_and_the_backbone_are_not_changed(settings, trained):
    before = file_hash(trained / "checkpoint.pt")
    result = lincls.run(settings())
    assert file_hash(trained / "checkpoint.pt") == before
    assert result["backbone_hash"] == weights_hash(load_pretrained(settings(), CPU).method.backbone.state_dict())


def test_a_backbone_whose_running_statistics_change_is_an_error(settings, monkeypatch, tmp_path):
    def careless(*args, **settings):
        network = load_pretrained(*args, **settings)
        backbone = network.method.backbone
        backbone.train = lambda mode=True: nn.Module.train(backbone, True)  # whatever is asked: BN goes on averaging
        return network

    monkeypatch.setattr(image_features, "load_pretrained", careless)
    with pytest.raises(SSLToolError, match="backbone changed"):
        lincls.run(settings())
    assert not (tmp_path / "probe" / "probe.pt").exists()


def test_a_backbone_with_one_changed_weight_is_an_error(settings, monkeypatch):
    val = ImageFeatures.val

    def nudge(source):
        with torch.no_grad():
            source.method.backbone.conv1.weight.view(-1)[0] += 1e-6
        return val(source)

    monkeypatch.setattr(ImageFeatures, "val", nudge)
    with pytest.raises(SSLToolError, match="backbone changed"):
        lincls.run(settings())


def test_one_seed_gives_one_result_and_another_seed_another(settings, tmp_path):
    probes = []
    for i, seed in enumerate((3, 3, 4)):
        lincls.run(settings(seed=seed, out=str(tmp_path / str(i))))
        probes.append(Probe.load(tmp_path / str(i) / "probe.pt").weight)
    assert torch.equal(probes[0], probes[1])
    assert not torch.equal(probes[0], probes[2])


def test_separable_classes_reach_accuracy_1(settings):
    result = lincls.run(settings(epochs=10, batch_size=40, lr=5.0))
    assert result["acc1"] == 1.0
    assert result["acc5"] == 1.0  # of two classes, the first five are both
    assert (result["classes"], result["train_size"], result["val_size"]) == (2, 40, 20)


def test_the_classifier_gets_the_outputs_of_embed(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(SimSiam, "embed", lambda method, images, layer: torch.zeros(len(images), method.backbone_dim))
    result = lincls.run(settings(epochs=3, lr=5.0))
    assert result["acc1"] == 0.5  # all images look alike, so all get the same one of two classes


def test_a_larc_step_moves_the_classifier_by_a_thousandth_of_its_norm(settings, tmp_path):
    # One step on all 40 images, lr scaled to 1, no momentum yet: |dW| = 0.001 |W|, and W ~ N(0, 0.01) of 128 numbers.
    assert lincls.run(settings(lars=True, batch_size=40, lr=256 / 40))["optimizer"] == "larc"
    after = Probe.load(tmp_path / "probe" / "probe.pt").weight
    before = linear_classifier(64, 2, seeds.generator(settings().seed)).weight.detach()
    assert float((after - before).norm() / before.norm()) == pytest.approx(0.001, rel=1e-3)


def test_lars_is_optimizer_larc_and_conflicts_with_other_optimizers(settings, probe_path):
    lincls.run(settings(lars=True, batch_size=40))
    before = Probe.load(probe_path).weight
    assert lincls.run(settings(optimizer="larc", batch_size=40, overwrite=True))["optimizer"] == "larc"
    assert torch.equal(Probe.load(probe_path).weight, before)
    for other in ("sgd", "lars"):
        with pytest.raises(SSLToolError, match=f"--lars .*--optimizer is {other}"):
            lincls.run(settings(lars=True, optimizer=other))


def test_a_lars_step_scales_the_weight_and_updates_the_bias_like_sgd(settings, probe_path):
    after = {}
    for optimizer in ("sgd", "lars"):
        lincls.run(settings(optimizer=optimizer, batch_size=40, lr=256 / 40, overwrite=True))
        after[optimizer] = Probe.load(probe_path)
    start = linear_classifier(64, 2, seeds.generator(settings().seed)).weight.detach()
    sgd, lars = (after[name].weight - start for name in ("sgd", "lars"))
    torch.testing.assert_close(lars, sgd * 0.001 * start.norm() / sgd.norm(), rtol=1e-3, atol=1e-9)
    assert torch.equal(after["sgd"].bias, after["lars"].bias)


def test_data_may_be_another_dataset_than_that_of_pretraining(ssltool, trained, black_and_white, tmp_path):
    flags = ["--dataset-type", "imagenet", "--epochs", 1, "--device", "cpu", "-j", 0, "-o", tmp_path / "probe"]
    ran = ssltool("lincls", "--pretrained", trained / "checkpoint.pt", black_and_white, *flags, "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["classes"], ran.json["train_size"], ran.json["image_size"]) == (2, 40, 16)
    config = json.loads((tmp_path / "probe" / "config.json").read_text())
    assert config["data"] == str(black_and_white)


def test_a_fraction_of_the_labels_is_the_same_share_of_each_class(on_bundled, settings, monkeypatch):
    seen = []
    train = ImageFeatures.train
    monkeypatch.setattr(
        ImageFeatures, "train", lambda source, *a: [seen.append(y) or (x, y) for x, y in train(source, *a)]
    )
    result = lincls.run(settings(data=None, labels_fraction=0.01))
    assert (result["train_size"], result["labels_fraction"]) == (80, 0.01)
    assert torch.cat(seen).bincount().tolist() == [8] * 10


@pytest.mark.parametrize(("many", "batch"), [(91, 256), (90, 4096)])
def test_the_default_batch_size_is_4096_from_the_limit_on_and_256_below(many, batch, on_files, monkeypatch):
    monkeypatch.setattr(sgd, "LARGE", many)  # of the 90 there are
    assert lincls.run(on_files(batch_size=None, epochs=1))["batch_size"] == batch


def test_idx_path_selects_train_images_and_not_val_images(on_bundled):
    result = lincls.run(on_bundled())
    assert (result["train_size"], result["val_size"]) == (200, 2000)


def test_random_probes_an_untrained_network_of_the_same_architecture(settings, tmp_path):
    trained = lincls.run(settings(out=str(tmp_path / "a")))
    untrained = lincls.run(settings(out=str(tmp_path / "b"), random=True))
    assert untrained["backbone_hash"] != trained["backbone_hash"]
    assert (untrained["random"], untrained["epoch"]) == (True, 0)


def test_a_folder_with_a_run_is_refused_and_replaced_with_overwrite(settings, tmp_path):
    lincls.run(settings())
    before = (tmp_path / "probe" / "probe.pt").read_bytes()
    with pytest.raises(SSLToolError, match="--overwrite"):
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
    with pytest.raises(SSLToolError, match=r"imagenet train .*labels"):
        lincls.run(settings(data=str(tmp_path / "pile")))
    assert not (tmp_path / "probe").exists()


def test_val_classes_that_train_lacks_are_named_and_count_as_errors(settings, tmp_path, capsys):
    few = tmp_path / "few.npy"
    np.save(few, np.arange(20))  # the first class only
    result = lincls.run(settings(idx_path=str(few)))
    assert (result["classes"], result["acc1"]) == (1, 0.5)
    note = result["found"][1]["notes"][-1]
    assert "no train image" in note and note in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_dataset_type_that_names_one_split_for_both_is_refused(settings, split):
    with pytest.raises(SSLToolError, match=f"--dataset-type imagenet_{split} "):
        lincls.run(settings(dataset_type=f"imagenet_{split}"))


def test_a_loss_that_is_not_finite_stops_the_probe(settings, tmp_path):
    with pytest.raises(SSLToolError, match=r"not finite in epoch [1-9]; .*--lr"):
        lincls.run(settings(lr=3e38, batch_size=256, epochs=3))
    assert not (tmp_path / "probe").exists()  # nothing is left of a run without a result


def test_the_backbone_of_another_architecture_is_refused(settings):
    with pytest.raises(SSLToolError, match="--arch is resnet18, "):
        lincls.run(settings(arch="resnet18"))


def test_a_damaged_checkpoint_is_refused(settings, trained, tmp_path):
    whole = (trained / "checkpoint.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SSLToolError, match=r"cut\.pt "):
        lincls.run(settings(pretrained=str(tmp_path / "cut.pt")))
    assert Checkpoint.load(trained / "checkpoint.pt").arch == "resnet18_w8"
