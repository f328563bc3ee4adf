"""The scan stage: steps, files, scores, resuming, and errors."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import records, same_bits
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.load import load_pretrained
from ssltool.config import DataSettings, NetworkSettings, ScanConfig
from ssltool.data import views
from ssltool.data.images import open_dataset
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET
from ssltool.errors import Interrupted, SSLToolError
from ssltool.reprs.clusters_file import Clusters
from ssltool.reprs.neighbours.file import Neighbours
from ssltool.reprs.representations import Representations
from ssltool.stages import scan
from ssltool.stages.scan import inputs
from ssltool.stages.scan.cluster_training import WEAK_VIEW, Clustering, SelfLabelling, table_loss
from ssltool.stages.scan.mining import NeighbourTable
from ssltool.stages.scan.scan import released_epochs

CPU = torch.device("cpu")
FILES = {"neighbours.pt", "clusters.pt", "selflabelled.pt"}


@pytest.fixture
def settings(trained, shades, tmp_path):
    """Settings that cluster dark, medium and light noise in a few steps: ``settings("out") -> ScanConfig``."""

    def make(out: str = "scan", **changes) -> ScanConfig:
        fixed = {
            "pretrained": str(trained / "checkpoint.pt"),
            "data": str(shades),
            "device": "cpu",
            "workers": 0,
            "neighbours": 5,
            "epochs": 2,
            "selflabel_epochs": 2,
            "batch_size": 16,
            "selflabel_batch_size": 24,
            "threshold": 0.2,
            "lr": 0.003,
            "selflabel_lr": 0.003,
            "out": str(tmp_path / out),
        }
        return ScanConfig(**fixed | changes)

    return make


def names(config: ScanConfig) -> set[str]:
    return {path.name for path in Path(str(config.out)).iterdir()}


def file(config: ScanConfig, name: str) -> Path:
    return Path(str(config.out)) / name


OF_STEPS = ("neighbours", "epochs", "batch_size", "lr", "heads", "clusters", "crop_min", "threshold")
OF_STEPS += ("selflabel_epochs", "selflabel_batch_size", "selflabel_lr")


def defaults_of(config: ScanConfig, *besides: str) -> dict:
    """The defaults of the settings of single steps, except those in ``besides``."""
    return {f.name: f.default for f in dataclasses.fields(config) if f.name in OF_STEPS and f.name not in besides}


def step_by_step(config: ScanConfig) -> None:
    """The three steps by three invocations."""
    of_step = {
        "mine": ("neighbours",),
        "cluster": ("epochs", "batch_size", "lr", "heads", "clusters", "crop_min"),
        "selflabel": ("selflabel_epochs", "selflabel_batch_size", "selflabel_lr", "threshold", "crop_min"),
    }
    for step, own in of_step.items():
        ineffective = defaults_of(config, *own)
        ineffective |= {"pretrained": None} if step == "selflabel" else {}
        scan.run(dataclasses.replace(config, step=step, **ineffective))


def test_separable_images_are_clustered(settings):
    config = settings(epochs=8, selflabel_epochs=3, lr=0.01, crop_min=0.5, threshold=0.5, kmeans=True)
    result = scan.run(config)
    assert list(result["steps"]) == ["mine", "kmeans", "cluster", "selflabel"]
    for step in ("cluster", "selflabel"):
        found = result["steps"][step]
        assert found["accuracy"] > 0.9 and found["nmi"] > 0.7 and found["ari"] > 0.7
        assert (found["clusters"], found["classes"], found["scored_on"], found["images"]) == (3, 3, "val", 24)
    assert result["steps"]["mine"]["neighbours"] == 5 and result["steps"]["mine"]["accuracy"] > 0.9
    assert names(config) == {
        *FILES,
        *("config.json", "images.jsonl", "val_images.jsonl", "metrics.jsonl"),
        *(f"assignments_{name}.pt" for name in ("kmeans", "cluster", "selflabel")),
    }


def test_separate_steps_are_bit_identical_to_all_steps_at_once(settings):
    together, apart = settings("together"), settings("apart")
    scan.run(together)
    step_by_step(apart)
    for name in ("clusters.pt", "selflabelled.pt"):
        one, other = Checkpoint.load(file(together, name)), Checkpoint.load(file(apart, name))
        assert same_bits(one.state_dict, other.state_dict)
    assert records(Path(together.out)) == records(Path(apart.out))


@pytest.mark.parametrize(
    "done", [2, 3, 6, 8], ids=["in mid-epoch", "after an epoch", "between steps", "in self-labelling"]
)
def test_a_resumed_run_is_bit_identical_to_an_unbroken_one(settings, monkeypatch, done):
    whole, config = settings("whole", heads=2), settings("stopped", heads=2)
    wanted = scan.run(whole)
    count = []

    for cls in (Clustering, SelfLabelling):

        def stepping(self, batch, step=cls.step):
            count.append(1)
            if len(count) == done:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, batch)

        monkeypatch.setattr(cls, "step", stepping)
    with pytest.raises(Interrupted):
        scan.run(config)
    found = scan.run(dataclasses.replace(config, resume="auto"))
    assert len(count) == 6 + 4
    assert found["steps"] == wanted["steps"]
    assert names(config) == names(whole)
    assert records(Path(config.out)) == records(Path(whole.out))
    for name in ("clusters.pt", "selflabelled.pt"):
        one, other = Checkpoint.load(file(whole, name)), Checkpoint.load(file(config, name))
        assert same_bits(one.state_dict, other.state_dict)


def test_labels_change_scores_only(settings, monkeypatch):
    labelled, unlabelled = settings("labelled", kmeans=True), settings("unlabelled", kmeans=True, clusters=3)
    scan.run(labelled)

    def without(config, split):
        images = open_dataset(config, split)
        return dataclasses.replace(images, labels=np.full(len(images), -1))

    monkeypatch.setattr(inputs, "open_images", without)
    result = scan.run(unlabelled)
    for name in ("clusters.pt", "selflabelled.pt"):
        one, other = Checkpoint.load(file(labelled, name)), Checkpoint.load(file(unlabelled, name))
        assert same_bits(one.state_dict, other.state_dict)
    for step in ("kmeans", "cluster", "selflabel"):
        found = result["steps"][step]
        assert found["accuracy"] is found["nmi"] is found["ari"] is found["majority"] is None
        assert sum(found["sizes"]) == 24 and found["classes"] == 0
    assert result["steps"]["mine"]["accuracy"] is None


def test_without_labels_the_number_of_clusters_must_be_given_before_anything_is_written(settings, monkeypatch):
    monkeypatch.setattr(
        inputs, "open_images", lambda c, s: dataclasses.replace(open_dataset(c, s), labels=np.full(48, -1))
    )
    config = settings()
    with pytest.raises(SSLToolError, match=r"0 known classes.*--clusters"):
        scan.run(config)
    assert not Path(config.out).exists()


def test_a_batch_pairs_each_image_with_a_random_neighbour(settings, monkeypatch):
    seen = []
    step = Clustering.step
    monkeypatch.setattr(Clustering, "step", lambda self, batch: seen.append(batch.rows) or step(self, batch))
    config = settings(epochs=3)
    scan.run(config)
    found = Neighbours.load(file(config, "neighbours.pt"))
    anchors, near = torch.cat([rows.view(2, -1) for rows in seen], dim=1)
    assert sorted(anchors.tolist()) == sorted([*range(48)] * 3)
    assert bool((found.indices[anchors] == near[:, None]).any(dim=1).all())
    assert len(set(zip(anchors.tolist(), near.tolist(), strict=True))) > 48  # not the same one each time


def test_self_labelling_predicts_on_the_plain_image_and_trains_on_an_augmented_one(settings, monkeypatch, shades):
    seen = []
    step = SelfLabelling.step
    monkeypatch.setattr(SelfLabelling, "step", lambda self, batch: seen.append(batch) or step(self, batch))
    scan.run(settings(selflabel_epochs=1))
    images = open_dataset(DataSettings(data=str(shades)), "train")
    weak, strong = seen[0].views
    assert torch.allclose(weak, views.eval_view(images.images[seen[0].rows], IMAGENET.at(16)), atol=1e-5)
    assert (strong - weak).abs().flatten(1).amax(dim=1).min() > 0.01


def test_self_labelling_predicts_in_eval_mode_and_trains_in_training_mode(settings, monkeypatch):
    modes = []
    logits = SelfLabelling.logits
    monkeypatch.setattr(
        SelfLabelling, "logits", lambda self, *args: modes.append(self.state.method.training) or logits(self, *args)
    )
    scan.run(settings(selflabel_epochs=1))
    assert modes == [False, True] * 2


@pytest.mark.parametrize(("given", "used"), [(None, {"clusters.pt": 0.5, "selflabelled.pt": 1.0}), (0.3, {})])
def test_small_images_are_cropped_in_clustering_and_not_in_self_labelling_by_default(settings, given, used):
    config = settings(epochs=1, selflabel_epochs=1, crop_min=given)
    scan.run(config)
    for name in ("clusters.pt", "selflabelled.pt"):
        saved = Checkpoint.load(file(config, name)).config
        assert saved["crop_min"] == used.get(name, given)
        assert saved["jitter_p"] == 0.8  # the checkpoint's


def test_the_weak_view_is_the_whole_image_without_augmentation():
    draws = views.sample_params(500, WEAK_VIEW, torch.Generator().manual_seed(0))
    assert bool((views.crop_boxes(draws, 20, 20) == torch.tensor([0, 0, 20, 20])).all())
    assert not bool(draws.flip.any() | draws.jittered.any() | draws.gray.any())


def test_the_loss_of_a_head_equals_plain_loops():
    generator = torch.Generator().manual_seed(0)
    log_p = torch.randn(6, 4, generator=generator).log_softmax(dim=1)
    table = NeighbourTable(
        np.array([[1, 2], [0, -1], [3, 4], [5, 0], [1, -1], [2, 3]]), np.array([2, 1, 2, 2, 1, 2]), 0
    )
    p = log_p.double().exp()
    each = [np.mean([-np.log(float(p[i] @ p[j])) for j in table.indices[i, : table.counts[i]]]) for i in range(6)]
    mean = p.mean(dim=0)
    wanted = np.mean(each) + 5.0 * float((mean * mean.log()).sum())
    assert table_loss(log_p, table, 5.0) == pytest.approx(wanted, rel=1e-5)


def test_the_epoch_and_the_head_with_the_lowest_validation_loss_are_kept(settings, monkeypatch):
    losses = iter([0.3, 0.5, 0.1, -2.0, 0.4, 0.2])  # two heads in each of three epochs
    seen, weights = [], []
    results = Clustering.results

    def watching(self, means):
        weights.append({name: tensor.clone() for name, tensor in self.state.method.state_dict().items()})
        return results(self, means)

    def loss(log_p, table, weight):
        seen.append((len(log_p), weight))
        return next(losses)

    monkeypatch.setattr("ssltool.stages.scan.cluster_training.table_loss", loss)
    monkeypatch.setattr(Clustering, "results", watching)
    config = dataclasses.replace(settings(heads=2, epochs=3), step="all")
    scan.run(config)
    saved = Checkpoint.load(file(config, "clusters.pt"))
    best = weights[1]
    assert torch.equal(saved.state_dict["projector.weight"], best["projector.weight"][3:])
    assert same_bits(saved.state_dict["backbone.conv1.weight"], best["backbone.conv1.weight"])
    assert (saved.config["head"], saved.config["kept_epoch"], saved.config["n_classes"]) == (1, 1, 3)
    assert seen == [(24, 1.0)] * 6  # on the val images, with the authors' weight of the entropy
    assert [record["val_loss"] for record in records(Path(config.out))[:3]] == [0.3, -2.0, 0.2]


def test_the_validation_loss_is_the_released_rule_on_the_val_images(settings, monkeypatch, shades):
    """Neighbours are the five nearest among the val images and the image itself, all pairs count the same."""
    found, probabilities = [], []
    results = Clustering.results

    def watching(self, means):
        with torch.no_grad():
            views = [batch.views[0] for batch in self.validation.evaluate(24)]
            probabilities.append(self.state.method.eval().embed(views[0], "projector").softmax(dim=1).double())
        found.append((results(self, means)["val_loss"], self.validation_table.indices))
        return results(self, means)

    monkeypatch.setattr(Clustering, "results", watching)
    config = settings(epochs=1, selflabel_epochs=1)
    scan.run(config)
    (loss, table), p = found[0], probabilities[0]
    method = load_pretrained(NetworkSettings(pretrained=config.pretrained), CPU).method.eval()
    images = open_dataset(DataSettings(data=str(shades)), "val")
    with torch.no_grad():
        batch = next(iter(Loader(images, IMAGENET.at(16), CPU).evaluate(24)))
        h = torch.nn.functional.normalize(method.backbone(batch.views[0]).double(), dim=1)
    near = (h @ h.T).fill_diagonal_(-1).topk(5).indices
    assert [sorted(row) for row in table.tolist()] == [sorted([i, *row]) for i, row in enumerate(near.tolist())]
    consistency = [-np.log(float(p[i] @ p[j])) for i in range(24) for j in table[i]]
    mean = p.mean(dim=0)
    assert loss == pytest.approx(np.mean(consistency) + float((mean * mean.log()).sum()), rel=1e-4)


def test_images_and_neighbours_are_normalised_by_batch_norm_apart(settings, monkeypatch):
    sizes = []
    logits = Clustering.logits
    monkeypatch.setattr(
        Clustering, "logits", lambda self, model, *views: sizes.extend(map(len, views)) or logits(self, model, *views)
    )
    config = settings(epochs=1, selflabel_epochs=1)
    scan.run(config)
    assert sizes == [16, 16] * 3
    start = load_pretrained(NetworkSettings(pretrained=config.pretrained), CPU).method.state_dict()
    steps = Checkpoint.load(file(config, "clusters.pt")).state_dict["backbone.bn1.num_batches_tracked"]
    assert int(steps - start["backbone.bn1.num_batches_tracked"]) == 2 * 3


def test_with_head_only_the_backbone_keeps_its_bits_and_the_heads_learn_by_sgd(settings):
    config = settings(epochs=2, selflabel_epochs=1, head_only=True, heads=2, lr=None)
    scan.run(config)
    saved = Checkpoint.load(file(config, "clusters.pt"))
    start = load_pretrained(NetworkSettings(pretrained=config.pretrained), CPU).method.state_dict()
    backbone = {name: tensor for name, tensor in saved.state_dict.items() if name.startswith("backbone.")}
    assert same_bits(backbone, {name: start[name] for name in backbone})
    c = saved.config
    assert (c["optimizer"], c["lr"] * 16 / 256, c["weight_decay"], c["head_only"]) == ("sgd", 5.0, 0.0, True)
    slower = settings("slower", epochs=4, selflabel_epochs=1, head_only=True, lr=0.05)
    scan.run(slower)
    losses = [record["loss"] for record in records(Path(slower.out)) if record["phase"] == "cluster"]
    assert losses[-1] < losses[0]


def test_steps_that_an_earlier_version_began_are_resumed(settings, monkeypatch):
    """It computed no validation loss, and self-labelled for 100 epochs."""
    config = settings(epochs=2, selflabel_epochs=None)
    monkeypatch.setattr("ssltool.stages.scan.scan.released_epochs", lambda size: 3)
    for cls, step in ((Clustering, "cluster"), (SelfLabelling, "selflabel")):
        real = cls.save

        def saving(self, save=real):
            save(self)
            os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(cls, "save", saving)
            with pytest.raises(Interrupted):
                scan.run(dataclasses.replace(config, resume="auto"))
        path = file(config, f"training_{step}.pt")
        older = Checkpoint.load(path)
        for record in older.metrics["epochs"]:
            record.pop("val_loss", None)
            record.pop("head", None)
        older.config.pop("head_only", None)
        older.save(path)
        file(config, "best_cluster.pt").unlink(missing_ok=True)
    monkeypatch.setattr("ssltool.stages.scan.scan.released_epochs", lambda size: 4)
    scan.run(dataclasses.replace(config, resume="auto"))
    assert Checkpoint.load(file(config, "clusters.pt")).config["kept_epoch"] == 1
    last = records(Path(config.out))[-1]
    assert (last["phase"], last["epoch"]) == ("selflabel", 2)
    assert {*names(config)} & {"training_cluster.pt", "training_selflabel.pt", "best_cluster.pt"} == set()


@pytest.mark.parametrize(("size", "epochs"), [(32, 200), (64, 200), (96, 100), (224, 25), (384, 25)])
def test_self_labelling_lasts_as_in_the_released_configurations(size, epochs):
    assert released_epochs(size) == epochs


def test_the_assignments_are_those_of_the_saved_network(settings, shades):
    config = settings()
    result = scan.run(config)
    images = open_dataset(DataSettings(data=str(shades)), "val")
    for name, step in (("clusters.pt", "cluster"), ("selflabelled.pt", "selflabel")):
        method = load_pretrained(NetworkSettings(pretrained=str(file(config, name))), CPU).method
        with torch.no_grad():
            batches = list(Loader(images, IMAGENET.at(16), CPU).evaluate(24))
            p = method.embed(batches[0].views[0], "projector").softmax(dim=1)
        stored = Clusters.load(file(config, f"assignments_{step}.pt"))
        assert torch.equal(stored.assignments, p.argmax(dim=1))
        assert torch.allclose(stored.confidence, p.amax(dim=1), atol=1e-5)
        assert stored.targets.tolist() == images.labels.tolist() and stored.index.tolist() == list(range(24))
        assert stored.meta["accuracy"] == result["steps"][step]["accuracy"]
        assert result["steps"][step]["confident"] == pytest.approx(float((p.amax(dim=1) > 0.2).double().mean()))


def test_save_reprs_reads_a_clustered_network(settings, tmp_path, ssltool):
    config = settings(epochs=1, selflabel_epochs=1)
    scan.run(config)
    out = tmp_path / "logits.pt"
    flags = ["--layer", "projector", "--split", "val", "--device", "cpu", "-o", out]
    ran = ssltool("save-reprs", "--pretrained", file(config, "selflabelled.pt"), *flags)
    assert ran.code == 0, ran.err
    assert Representations.load(out).representations.shape == (24, 3)


def test_reprs_of_the_same_network_give_the_same_neighbours(settings, trained, shades, tmp_path, ssltool):
    config = dataclasses.replace(settings(), step="mine", **defaults_of(settings(), "neighbours"))
    scan.run(config)
    flags = ["--pretrained", trained / "checkpoint.pt", "--device", "cpu", "-j", 0, "-o", tmp_path / "r.pt"]
    assert ssltool("save-reprs", *flags, "--data", shades).code == 0
    from_file = dataclasses.replace(
        config, reprs=str(tmp_path / "r.pt"), pretrained=None, data=None, out=str(tmp_path / "other")
    )
    scan.run(from_file)
    one, other = (Neighbours.load(file(c, "neighbours.pt")) for c in (config, from_file))
    assert torch.equal(one.indices, other.indices)


def test_neighbours_of_reprs_are_kept_on_resume_and_those_of_others_refused(tmp_path):
    rows = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    meta = {"dataset": "made-up", "split": "train", "checkpoint_hash": "ab", "layer": "backbone", "fingerprint": "cd"}
    made = tmp_path / "r.pt"
    Representations(rows, torch.arange(12) % 3, torch.arange(12), meta).save(made)
    config = ScanConfig(reprs=str(made), step="mine", neighbours=3, device="cpu", out=str(tmp_path / "out"))
    scan.run(config)
    before = file(config, "neighbours.pt").read_bytes()
    scan.run(dataclasses.replace(config, resume="auto"))
    assert file(config, "neighbours.pt").read_bytes() == before
    for name, title in (("checkpoint_hash", "checkpoint"), ("fingerprint", "images"), ("split", "split")):
        Representations(rows, torch.arange(12) % 3, torch.arange(12), meta | {name: "other"}).save(made)
        with pytest.raises(SSLToolError, match=f"cannot resume .*{title}"):
            scan.run(dataclasses.replace(config, resume="auto"))


def test_reprs_of_several_ranks_are_one_set_and_a_missing_rank_is_an_error(tmp_path):
    rows, targets = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    whole = Representations(rows, targets, torch.arange(40), {"split": "train"})
    whole.save(tmp_path / "whole.pt")
    for rank in range(2):
        mine = slice(20 * rank, 20 * rank + 20)
        part = Representations(rows[mine], targets[mine], torch.arange(40)[mine], whole.meta | {"shard": [rank, 2]})
        part.save(tmp_path / f"parts.rank{rank}of2.pt")

    def mined(name):
        scan.run(
            ScanConfig(reprs=str(tmp_path / name), step="mine", neighbours=3, device="cpu", out=str(tmp_path / "out"))
        )
        found = Neighbours.load(tmp_path / "out" / "neighbours.pt").indices
        (tmp_path / "out" / "neighbours.pt").unlink()
        return found

    assert torch.equal(mined("parts.pt"), mined("whole.pt"))
    (tmp_path / "parts.rank1of2.pt").unlink()
    with pytest.raises(SSLToolError, match="rank 1 of 2"):
        mined("parts.pt")


def test_clustering_reads_neighbours_from_any_source(settings, tmp_path):
    config = dataclasses.replace(settings("other"), step="cluster", **defaults_of(settings(), "epochs"))
    near = torch.arange(48).roll(1)[:, None]
    Path(config.out).mkdir()
    Neighbours(near, torch.zeros(48, 1), torch.arange(48), near).save(file(config, "neighbours.pt"))
    before = file(config, "neighbours.pt").read_bytes()
    assert list(scan.run(config)["steps"]) == ["cluster"]
    assert file(config, "neighbours.pt").read_bytes() == before


def test_without_a_val_split_the_train_images_are_evaluated(settings, shades):
    result = scan.run(settings(data=str(shades / "train"), epochs=1, selflabel_epochs=1, kmeans=True))
    for step in ("kmeans", "cluster", "selflabel"):
        assert (result["steps"][step]["scored_on"], result["steps"][step]["images"]) == ("train", 48)


def test_without_confident_images_self_labelling_stops_and_keeps_the_clusters(settings):
    config = settings(threshold=1.0)
    with pytest.raises(SSLToolError, match=r"epoch 1 .*--threshold \(1\.0\)") as error:
        scan.run(config)
    assert "\n" not in str(error.value)
    assert names(config) >= {"clusters.pt", "assignments_cluster.pt"} and "selflabelled.pt" not in names(config)
    before = file(config, "clusters.pt").read_bytes()
    scan.run(dataclasses.replace(config, threshold=0.2, resume="auto"))  # what the error says to do
    assert file(config, "clusters.pt").read_bytes() == before and "selflabelled.pt" in names(config)


def test_a_step_without_confident_images_does_not_change_the_network(settings, monkeypatch):
    config = settings(selflabel_epochs=1)
    answers = iter([(torch.zeros((), requires_grad=True) * 1.0, 0), (None, 3)])
    real = SelfLabelling.step
    moved = []

    def stepping(self, batch):
        before = self.state.method.projector.weight.detach().clone()
        values = real(self, batch)
        moved.append(not torch.equal(before, self.state.method.projector.weight))
        return values

    def losing(weak, strong, threshold):
        loss, count = next(answers)
        return (strong.sum() if loss is None else loss), count

    monkeypatch.setattr(SelfLabelling, "step", stepping)
    monkeypatch.setattr("ssltool.stages.scan.cluster_training.confidence_loss", losing)
    scan.run(config)
    assert moved == [False, True]
    assert records(Path(config.out))[-1]["confident"] == pytest.approx(3 / 24 / 2)


def test_empty_clusters_are_reported(settings, capsys):
    result = scan.run(settings(clusters=30, entropy_weight=0.0, epochs=4, lr=0.01))
    found = result["steps"]["cluster"]
    assert found["empty"] == sum(size == 0 for size in found["sizes"]) > 0
    assert f"warning: cluster: {found['empty']} of 30 " in capsys.readouterr().err


def test_the_command_prints_majority_if_there_are_more_clusters_than_classes(ssltool, settings):
    c = settings()
    flags = ["--pretrained", c.pretrained, "--device", "cpu", "-j", 0, "--neighbours", 5, "--epochs", 1]
    flags += ["--selflabel-epochs", 1, "-b", 16, "--threshold", 0.05, "-o", c.out, "--kmeans"]
    ran = ssltool("scan", c.data, *flags, "--clusters", 6)
    assert ran.code == 0, ran.err
    for word in (
        "5 neighbours of each image, 9",
        "% of them of the same class",
        "majority",
        "24 val images",
        "selflabel",
    ):
        assert word in ran.out
    again = ssltool("scan", c.data, *flags, "--clusters", 6, "--resume", "auto", "--json")
    assert again.json["steps"]["cluster"]["majority"] >= again.json["steps"]["cluster"]["accuracy"]
    assert len(again.json["steps"]["kmeans"]["sizes"]) == 6


def test_a_folder_with_a_run_is_refused_and_replaced_with_overwrite(settings):
    config = settings(epochs=1, selflabel_epochs=1)
    scan.run(config)
    before = file(config, "clusters.pt").read_bytes()
    with pytest.raises(SSLToolError, match=r"neighbours\.pt exists; .*--resume auto.*--overwrite"):
        scan.run(dataclasses.replace(config, seed=3))
    assert file(config, "clusters.pt").read_bytes() == before
    scan.run(dataclasses.replace(config, seed=3, overwrite=True))
    assert file(config, "clusters.pt").read_bytes() != before
    assert [r["phase"] for r in records(Path(config.out))] == ["cluster", "selflabel"]


def test_overwriting_a_step_removes_the_files_of_later_steps(settings):
    config = settings(epochs=1, selflabel_epochs=1)
    scan.run(config)
    alone = {"step": "cluster", **defaults_of(config, "epochs")}
    with pytest.raises(SSLToolError, match=r"clusters\.pt exists"):
        scan.run(dataclasses.replace(config, **alone))
    scan.run(dataclasses.replace(config, **alone, overwrite=True))
    assert names(config) == {
        *(
            "neighbours.pt",
            "clusters.pt",
            "assignments_cluster.pt",
            "config.json",
            "images.jsonl",
            "val_images.jsonl",
            "metrics.jsonl",
        )
    }


def contents(config: ScanConfig) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(str(config.out)).iterdir()}


@pytest.mark.parametrize("step", ["cluster", "selflabel"])
def test_an_overwriting_run_that_fails_in_a_later_step_leaves_the_earlier_results(settings, monkeypatch, step):
    config = settings(epochs=1, selflabel_epochs=1)
    scan.run(config)
    before = contents(config)
    loop = Clustering if step == "cluster" else SelfLabelling

    def fail(self):
        raise SSLToolError("it failed")

    monkeypatch.setattr(loop, "finish_epoch", fail)
    again = dataclasses.replace(config, seed=3, neighbours=6, overwrite=True)
    with pytest.raises(SSLToolError, match="it failed"):
        scan.run(again)
    assert contents(config) == before
    if step == "cluster":
        with pytest.raises(SSLToolError, match="it failed"):
            scan.run(dataclasses.replace(config, step="cluster", overwrite=True, **defaults_of(config, "epochs")))
        assert contents(config) == before
    monkeypatch.undo()
    scan.run(again)
    assert names(config) == before.keys() and contents(config)["clusters.pt"] != before["clusters.pt"]


def test_an_overwriting_run_that_is_stopped_is_resumed_and_keeps_the_earlier_results_until_it_is_done(
    settings, monkeypatch
):
    config, whole = settings(epochs=1, selflabel_epochs=2), settings("whole", epochs=1, selflabel_epochs=2, seed=3)
    scan.run(config)
    before = contents(config)
    scan.run(whole)
    again = dataclasses.replace(config, seed=3, overwrite=True)
    step = SelfLabelling.step

    def stop(self, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    monkeypatch.setattr(SelfLabelling, "step", stop)
    for last in (again, dataclasses.replace(again, overwrite=False, resume="auto"), again):
        with pytest.raises(Interrupted):
            scan.run(last)
        aside = Path(str(config.out)) / ".replaced"
        kept = {path.name: path.read_bytes() for path in aside.iterdir()}
        assert {name: kept[name] for name in FILES} == {name: before[name] for name in FILES}
    monkeypatch.undo()
    scan.run(dataclasses.replace(again, overwrite=False, resume="auto"))
    assert names(config) == names(whole)
    assert records(Path(config.out)) == records(Path(whole.out))


@pytest.mark.parametrize("missing", ["neighbours.pt", "clusters.pt"])
def test_resuming_without_the_file_of_an_earlier_step_runs_no_step(settings, missing):
    config = settings(epochs=1, selflabel_epochs=1)
    scan.run(config)
    file(config, missing).unlink()
    before = contents(config)
    for change in ({}, {"neighbours": 6, "seed": 3}):
        with pytest.raises(SSLToolError, match=rf"{missing}, .* missing.*--overwrite"):
            scan.run(dataclasses.replace(config, resume="auto", **change))
    assert contents(config) == before


def test_neighbours_of_another_network_are_not_continued(settings, trained):
    config = settings(epochs=1, selflabel_epochs=1)
    alone = {"step": "mine", **defaults_of(config, "neighbours")}
    scan.run(dataclasses.replace(config, **alone))
    other = Path(str(config.out)).parent / "other.pt"
    checkpoint = Checkpoint.load(trained / "checkpoint.pt")
    checkpoint.state_dict["backbone.conv1.weight"] *= 2
    checkpoint.save(other)
    with pytest.raises(SSLToolError, match=r"neighbours\.pt: the hash of the checkpoint was"):
        scan.run(dataclasses.replace(config, pretrained=str(other), resume="auto"))
    scan.run(dataclasses.replace(config, resume="auto"))


def test_clustering_tells_of_neighbours_of_another_network(settings, capsys):
    config = settings(epochs=1, selflabel_epochs=1)
    scan.run(dataclasses.replace(config, step="mine", **defaults_of(config, "neighbours")))
    cluster = dataclasses.replace(config, step="cluster", **defaults_of(config, "epochs"))
    capsys.readouterr()
    scan.run(cluster)
    assert "another network" not in capsys.readouterr().err
    scan.run(dataclasses.replace(cluster, random=True, overwrite=True))
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "another network" in line]
    assert said.startswith("note: ") and "neighbours.pt" in said and "untrained" in said


@pytest.mark.parametrize("change", [{"random": True}, {"image_size": 20}])
def test_neighbours_by_other_rows_of_one_checkpoint_are_not_continued(settings, change):
    config = settings(epochs=1, selflabel_epochs=1)
    alone = {"step": "mine", **defaults_of(config, "neighbours")}
    scan.run(dataclasses.replace(config, **alone))
    with pytest.raises(SSLToolError, match=r"neighbours\.pt: (untrained|the image size) was"):
        scan.run(dataclasses.replace(config, **alone, **change, resume="auto"))
    scan.run(dataclasses.replace(config, **alone, resume="auto"))


def test_resuming_with_other_settings_is_refused(settings, monkeypatch):
    config = settings()
    step = Clustering.step

    def stop(self, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    monkeypatch.setattr(Clustering, "step", stop)
    with pytest.raises(Interrupted):
        scan.run(config)
    for change, said in (
        ({"entropy_weight": 2.0}, "--entropy-weight was 5.0, is now 2.0"),
        ({"clusters": 4}, "--clusters was 3, is now 4"),
        ({"erase_p": 0.0}, "--erase-p was 0.5, is now 0.0"),
    ):
        with pytest.raises(SSLToolError, match=said):
            scan.run(dataclasses.replace(config, resume="auto", **change))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step": "cluster"}, "--neighbours .*--step cluster"),
        ({"step": "mine"}, "--epochs .*--step mine"),
        (
            {"step": "selflabel", "neighbours": 20, "epochs": None, "batch_size": 128, "lr": None},
            "--pretrained .*--step selflabel",
        ),
        ({"resume": "auto", "overwrite": True}, "--overwrite .*--resume auto"),
        ({"pretrained": None}, "--pretrained"),
        ({"neighbours": 48}, r"--neighbours 48 .*\(48\)"),
    ],
)
def test_conflicting_settings_are_refused_before_anything_is_written(settings, changes, said):
    config = settings(**changes)
    with pytest.raises(SSLToolError, match=said) as error:
        scan.run(config)
    assert "\n" not in str(error.value)
    assert not Path(config.out).exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"neighbours": 6}, "--neighbours was 5, is now 6"),
        ({"epochs": 3}, "--epochs was 2, is now 3"),
        ({"threshold": 0.5}, "--threshold was 0.2, is now 0.5"),
        ({"selflabel_epochs": 3}, "--epochs was 2, is now 3"),
    ],
)
def test_resuming_a_finished_run_with_other_settings_is_refused(settings, change, said):
    config = settings()
    scan.run(config)
    before = file(config, "config.json").read_bytes()
    with pytest.raises(SSLToolError, match=said):
        scan.run(dataclasses.replace(config, resume="auto", **change))
    assert file(config, "config.json").read_bytes() == before


def test_neighbours_of_other_images_are_refused_before_anything_is_replaced(settings):
    config = settings()
    scan.run(config)
    near = Neighbours.load(file(config, "neighbours.pt"))
    dataclasses.replace(near, meta=near.meta | {"dataset": "other"}).save(file(config, "neighbours.pt"))
    before = names(config)
    again = dataclasses.replace(config, step="cluster", overwrite=True, **defaults_of(config, "epochs"))
    with pytest.raises(SSLToolError, match=r"neighbours\.pt .*\bother\b"):
        scan.run(again)
    assert names(config) == before


def test_a_step_without_the_file_of_the_previous_step_is_refused(tmp_path):
    with pytest.raises(SSLToolError, match=r"--step selflabel .*clusters\.pt.* --step cluster"):
        scan.run(ScanConfig(step="selflabel", device="cpu", out=str(tmp_path / "none")))
    assert not (tmp_path / "none").exists()


def test_selflabel_refuses_a_checkpoint_without_a_classifier(trained, tmp_path):
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "clusters.pt").write_bytes((trained / "checkpoint.pt").read_bytes())
    with pytest.raises(SSLToolError, match=r"clusters\.pt .*\bsimsiam\b"):
        scan.run(ScanConfig(step="selflabel", device="cpu", out=str(tmp_path / "scan")))


def test_a_folder_of_another_stage_is_refused(settings, trained):
    with pytest.raises(SSLToolError, match="pretrain"):
        scan.run(settings(str(trained)))
