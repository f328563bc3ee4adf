"""Fine-tuning: what both arms share, what they learn, what is written, and going on where it stopped."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from helpers import records, same_bits
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.load import load_pretrained
from ssltool.config import FinetuneConfig, NetworkSettings
from ssltool.data import views
from ssltool.data.labels import open_labelled
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET
from ssltool.errors import Interrupted, SSLToolError
from ssltool.reprs.representations import Representations
from ssltool.stages import finetune
from ssltool.stages.finetune import spread

CPU = torch.device("cpu")


@pytest.fixture
def settings(trained, shades, tmp_path):
    """Settings of two epochs of three steps into ``tmp_path/out``: ``settings("out", lr=1.0) -> FinetuneConfig``."""

    def make(out: str = "tuned", **changes) -> FinetuneConfig:
        fixed = {
            "pretrained": str(trained / "checkpoint.pt"),
            "data": str(shades),
            "device": "cpu",
            "workers": 0,
            "epochs": 2,
            "batch_size": 16,
            "out": str(tmp_path / out),
        }
        return FinetuneConfig(**fixed | changes)

    return make


def load(config: FinetuneConfig, arm: str = "pretrained", seed: int = 10) -> Checkpoint:
    return Checkpoint.load(Path(str(config.out)) / f"finetuned_{arm}_seed{seed}.pt")


@pytest.fixture
def seen(monkeypatch):
    """What each training saw and started from: a list of (label, rows, views, weights before the step)."""
    steps = []
    step = finetune._Finetuning.step

    def watching(self, batch):
        weights = {name: tensor.clone() for name, tensor in self.state.method.state_dict().items()}
        steps.append((self.label["arm"], batch.rows.clone(), batch.views[0].clone(), weights))
        return step(self, batch)

    monkeypatch.setattr(finetune._Finetuning, "step", watching)
    return steps


def test_both_arms_have_the_same_batches_and_the_same_initial_classifier(settings, seen, trained):
    finetune.run(settings(from_scratch=True))
    arms = {arm: [s for s in seen if s[0] == arm] for arm in ("pretrained", "scratch")}
    assert len(arms["pretrained"]) == len(arms["scratch"]) == 6
    for one, other in zip(arms["pretrained"], arms["scratch"], strict=True):
        assert torch.equal(one[1], other[1])
        assert torch.equal(one[2], other[2])
    tuned, scratch = arms["pretrained"][0][3], arms["scratch"][0][3]
    for name in ("projector.weight", "projector.bias"):
        assert torch.equal(tuned[name], scratch[name])
    saved = Checkpoint.load(trained / "checkpoint.pt").state_dict
    backbone = [name for name in saved if name.startswith("backbone.")]
    assert all(torch.equal(tuned[name], saved[name]) for name in backbone)
    assert not torch.equal(scratch["backbone.conv1.weight"], saved["backbone.conv1.weight"])


def test_an_epoch_has_full_batches_of_distinct_images(settings, seen):
    finetune.run(settings(epochs=1, batch_size=20))
    rows = torch.cat([s[1] for s in seen])
    assert len(rows) == len(rows.unique()) == 40  # of 48


def test_both_arms_learn_separable_images(settings):
    result = finetune.run(settings(epochs=7, lr=0.5, from_scratch=True, crop_min=0.5))
    for arm in ("pretrained", "scratch"):
        assert result["arms"][arm]["acc1"]["mean"] > 0.9
    assert (result["classes"], result["train_size"], result["val_size"]) == (3, 48, 24)


def test_the_accuracies_are_those_of_the_saved_network_on_the_val_images(settings):
    config = settings()
    result = finetune.run(config)
    network = load_pretrained(NetworkSettings(pretrained=str(Path(config.out) / "finetuned_pretrained_seed10.pt")), CPU)
    _, val = open_labelled(config)
    with torch.no_grad():
        logits = torch.cat(
            [network.method.embed(b.views[0], "projector") for b in Loader(val, IMAGENET.at(16), CPU).evaluate(7)]
        )
    right = (logits.argmax(dim=1) == torch.from_numpy(val.labels)).double()
    assert result["arms"]["pretrained"]["acc1"]["mean"] == pytest.approx(float(right.mean()))
    by_class = [float(right[torch.from_numpy(val.labels == c)].mean()) for c in range(3)]
    assert result["arms"]["pretrained"]["class_acc1"]["mean"] == pytest.approx(np.mean(by_class))
    assert result["arms"]["pretrained"]["acc5"]["mean"] == 1.0  # three classes are all among the first five


def test_later_stages_read_a_finetuned_network(settings, tmp_path, ssltool):
    config = settings(epochs=1)
    finetune.run(config)
    file = Path(config.out) / "finetuned_pretrained_seed10.pt"
    ran = ssltool("save-reprs", "--pretrained", file, "--split", "val", "--device", "cpu", "-o", tmp_path / "r.pt")
    assert ran.code == 0, ran.err
    rows = Representations.load(tmp_path / "r.pt")
    assert rows.representations.shape == (24, 64)
    assert rows.meta["epoch"] == 1 and rows.meta["image_size"] == 16
    assert views.recipe_of(Checkpoint.load(file).config) == views.PROBE


def test_rank_leaves_out_a_run_folder_of_finetune(settings, trained, ssltool):
    config = settings(epochs=1)
    finetune.run(config)
    ran = ssltool("rank", trained, config.out, "--json")
    assert ran.code == 0, ran.err
    assert [row["path"] for row in ran.json["rows"]] == [str(trained)]


def test_the_val_images_are_evaluated_once_per_arm_and_seed(settings, monkeypatch):
    calls = []
    evaluate = finetune._Finetuning._evaluate
    monkeypatch.setattr(
        finetune._Finetuning, "_evaluate", lambda self: calls.append(self.state.epoch) or evaluate(self)
    )
    finetune.run(settings(from_scratch=True, seeds=2))
    assert calls == [2, 2, 2, 2]


def test_the_arm_from_scratch_does_not_depend_on_the_pretrained_arm(settings):
    beside, alone = settings("beside", from_scratch=True, head_lr=0.3, layer_decay=0.5), settings("alone", random=True)
    finetune.run(beside)
    result = finetune.run(alone)
    assert list(result["arms"]) == ["scratch"]
    one, other = load(beside, "scratch"), load(alone, "scratch")
    assert same_bits(one.state_dict, other.state_dict)
    assert same_bits(one.metrics, other.metrics)


def test_layer_decay_scales_the_step_of_each_layer(settings, trained):
    """Without momentum and weight decay one step of SGD moves a weight by its rate times its gradient."""
    one_step = {"epochs": 1, "batch_size": 48, "momentum": 0.0, "weight_decay": 0.0, "lr": 1.0}
    plain, layered = settings("plain", **one_step), settings("layered", layer_decay=0.5, head_lr=3.0, **one_step)
    start = Checkpoint.load(trained / "checkpoint.pt").state_dict
    weights = []
    for config in (plain, layered):
        finetune.run(config)
        weights.append(load(config).state_dict)

    def moved(name: str) -> torch.Tensor:
        before = start[name].double()
        return ((weights[1][name].double() - before).norm() / (weights[0][name].double() - before).norm()).item()

    assert moved("backbone.conv1.weight") == pytest.approx(0.5**5, rel=1e-3)
    assert moved("backbone.layer2.0.conv1.weight") == pytest.approx(0.5**3, rel=1e-3)
    assert moved("backbone.layer4.1.bn2.weight") == pytest.approx(0.5, rel=1e-3)
    fresh = settings("fresh", **one_step | {"lr": 1e-12})
    finetune.run(fresh)
    head = load(fresh).state_dict["projector.weight"].double()
    by = [(w["projector.weight"].double() - head).norm() for w in weights]
    assert float(by[1] / by[0]) == pytest.approx(3.0, rel=1e-3)


def test_learning_rates_follow_the_warm_up_and_the_cosine(settings):
    config = settings(epochs=4, warmup_epochs=1, lr=0.1, batch_size=48, optimizer="adamw")
    finetune.run(config)
    rate = 0.1 * 48 / 256
    # One step an epoch: nothing yet, the top, and a quarter and three quarters of the way down in three epochs.
    wanted = [0.0, rate, rate * 0.75, rate * 0.25]
    assert [record["lr"] for record in records(Path(config.out))] == pytest.approx(wanted)


def test_the_difference_of_several_seeds_is_paired(settings):
    config = settings(from_scratch=True, seeds=3, epochs=1, lr=0.3)
    result = finetune.run(config)
    last = {(r["arm"], r["seed"]): r["acc1"] for r in records(Path(config.out))}
    assert result["seeds"] == [10, 11, 12]
    tuned, scratch = ([last[arm, seed] for seed in (10, 11, 12)] for arm in ("pretrained", "scratch"))
    assert result["arms"]["pretrained"]["acc1"]["values"] == tuned
    assert result["arms"]["scratch"]["acc1"]["sd"] == pytest.approx(np.std(scratch, ddof=1))
    differences = np.array(tuned) - np.array(scratch)
    assert result["difference"]["acc1"]["mean"] == pytest.approx(differences.mean())


def test_the_interval_is_that_of_students_t():
    values = [0.81, 0.83, 0.86, 0.84]
    found = spread(values)
    interval = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    assert spread([0.7])["sd"] is None


def test_the_labelled_fraction_is_balanced_and_the_same_for_both_arms_and_the_probe(settings, seen):
    config = settings(labels_fraction=0.25, from_scratch=True, seeds=2, epochs=1, batch_size=12)
    finetune.run(config)
    shown = [sorted(s[1].tolist()) for s in seen]
    assert shown == [list(range(12))] * 4  # places among the chosen images
    chosen = [load(config, arm, seed).config["index_hash"] for seed in (10, 11) for arm in ("pretrained", "scratch")]
    assert chosen[0] == chosen[1] != chosen[2] == chosen[3]
    train, _ = open_labelled(config)
    assert np.bincount(train.labels).tolist() == [4, 4, 4]


def test_the_batch_size_is_at_most_the_number_of_images(settings):
    assert finetune.run(settings(batch_size=None, epochs=1))["batch_size"] == 48


@pytest.mark.parametrize(
    ("done", "optimizer"), [(2, "adamw"), (3, "sgd"), (8, "sgd")], ids=["mid-epoch", "end of epoch", "second arm"]
)
def test_a_resumed_run_is_bit_identical_to_an_unbroken_one(settings, monkeypatch, done, optimizer):
    changes = {"from_scratch": True, "optimizer": optimizer, "layer_decay": 0.7}
    whole, config = settings("whole", **changes), settings("stopped", **changes)
    wanted = finetune.run(whole)
    step, count = finetune._Finetuning.step, []

    def stepping(self, batch):
        count.append(1)
        if len(count) == done:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    monkeypatch.setattr(finetune._Finetuning, "step", stepping)
    with pytest.raises(Interrupted) as stopped:
        finetune.run(config)
    assert stopped.value.number == signal.SIGTERM
    found = finetune.run(dataclasses.replace(config, resume="auto"))
    assert len(count) == 12
    assert found["arms"] == wanted["arms"] and found["difference"] == wanted["difference"]
    assert records(Path(whole.out)) == records(Path(config.out))
    for arm in ("pretrained", "scratch"):
        one, other = load(whole, arm), load(config, arm)
        assert same_bits(one.state_dict, other.state_dict)
        assert same_bits(one.optimizer, other.optimizer)


def test_a_finished_run_can_be_resumed_with_more_seeds_and_another_arm(settings, seen):
    config = settings(epochs=1)
    first = finetune.run(config)
    steps = len(seen)
    more = finetune.run(dataclasses.replace(config, resume="auto", seeds=2, from_scratch=True))
    assert len(seen) - steps == 3 * steps
    assert more["arms"]["pretrained"]["acc1"]["values"][0] == first["arms"]["pretrained"]["acc1"]["mean"]
    assert [(r["arm"], r["seed"]) for r in records(Path(config.out))] == [
        *[("pretrained", 10), ("scratch", 10), ("pretrained", 11), ("scratch", 11)]
    ]


@pytest.mark.parametrize("change", [{"seeds": 1}, {"from_scratch": False}, {"seed": 11}])
def test_resuming_with_fewer_seeds_or_arms_is_refused_and_loses_nothing(settings, change):
    config = settings(epochs=1, seeds=2, from_scratch=True)
    finetune.run(config)
    before = records(Path(config.out))
    with pytest.raises(SSLToolError, match=r"results of \d other training"):
        finetune.run(dataclasses.replace(config, resume="auto", **change))
    assert records(Path(config.out)) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lr": 0.2}, "--lr was 0.3, is now 0.2"),
        ({"layer_decay": 0.5}, "--layer-decay was 1.0, is now 0.5"),
        ({"crop_min": 0.5}, "--crop-min was 0.08, is now 0.5"),
        ({"labels_fraction": 0.5}, "number of images was 48, is now 24"),
    ],
)
def test_resuming_with_other_settings_is_refused_and_changes_nothing(settings, change, said):
    config = settings(epochs=1)
    finetune.run(config)
    before = load(config)
    with pytest.raises(SSLToolError, match=said):
        finetune.run(dataclasses.replace(config, resume="auto", **change))
    assert same_bits(before.state_dict, load(config).state_dict)
    assert len(records(Path(config.out))) == 1


def test_the_flag_that_changed_is_named_where_only_the_network_from_scratch_has_it(settings):
    config = settings(epochs=1, from_scratch=True, scratch_lr=0.2)
    finetune.run(config)
    with pytest.raises(SSLToolError, match=r"scratch.*: --scratch-lr was 0\.2, is now 0\.1\. This"):
        finetune.run(dataclasses.replace(config, resume="auto", scratch_lr=0.1))


def test_resuming_from_another_checkpoint_is_refused(settings, tmp_path, tiny):
    from ssltool.stages.pretrain import run as pretrain

    config = settings(epochs=1)
    finetune.run(config)
    other = pretrain(tiny("other", epochs=1, seed=3))
    with pytest.raises(SSLToolError, match="initial network was"):
        finetune.run(dataclasses.replace(config, resume="auto", pretrained=str(other / "checkpoint.pt")))


def test_a_folder_with_a_run_is_refused_and_replaced_with_overwrite(settings):
    config = settings(epochs=1, seeds=2)
    finetune.run(config)
    with pytest.raises(SSLToolError, match=r"--resume auto.*--overwrite|--overwrite.*--resume auto"):
        finetune.run(config)
    finetune.run(dataclasses.replace(config, seeds=1, overwrite=True))
    assert {p.name for p in Path(config.out).iterdir()} == {
        *("config.json", "images.jsonl", "val_images.jsonl", "metrics.jsonl", "finetuned_pretrained_seed10.pt")
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scratch_lr": 0.1}, "--scratch-lr .*--from-scratch"),
        ({"optimizer": "adamw", "momentum": 0.5}, "--momentum .*--optimizer adamw"),
        ({"random": True, "from_scratch": True}, "--from-scratch "),
        ({"random": True, "layer_decay": 0.5}, "--layer-decay "),
        ({"warmup_epochs": 2}, r"--warmup-epochs 2 .*\(2\)"),
        ({"resume": "auto", "overwrite": True}, "--overwrite .*--resume auto"),
        ({"dataset_type": "imagenet_train"}, "--dataset-type imagenet_train "),
    ],
)
def test_conflicting_settings_are_refused_before_a_folder_is_made(settings, changes, said):
    config = settings(**changes)
    with pytest.raises(SSLToolError, match=said):
        finetune.run(config)
    assert not Path(config.out).exists()


def test_a_single_labelled_image_is_refused(settings, tmp_path, write_images):
    write_images(tmp_path / "one" / "train" / "a", 2)
    write_images(tmp_path / "one" / "train" / "b", 2)
    write_images(tmp_path / "one" / "val" / "a", 2)
    np.save(tmp_path / "first.npy", np.array([0]))
    with pytest.raises(SSLToolError, match=r"2 labelled images, found 1; .*--labels-fraction"):
        finetune.run(settings(data=str(tmp_path / "one"), idx_path=str(tmp_path / "first.npy")))


def test_a_loss_that_is_not_finite_is_an_error_of_one_line(settings):
    config = settings(lr=1e30, epochs=5)
    with pytest.raises(SSLToolError, match=r"^the (loss|weights) .*; .*--lr") as error:
        finetune.run(config)
    assert "\n" not in str(error.value)


def test_the_command_prints_both_arms_and_their_difference(ssltool, settings):
    c = settings()
    flags = ["--pretrained", c.pretrained, "--device", "cpu", "-j", 0, "-b", 16, "--epochs", 1, "-o", c.out]
    ran = ssltool("finetune", c.data, *flags, "--from-scratch", "--seeds", 2)
    assert ran.code == 0, ran.err
    for word in ("pretrained", "from scratch", "difference", "95 % interval", "48 train of 3 classes"):
        assert word in ran.out
    again = ssltool("finetune", c.data, *flags, "--from-scratch", "--seeds", 2, "--resume", "auto", "--json")
    assert again.json["arms"]["scratch"]["acc1"]["values"]
    assert again.json["random"] is False and again.json["arch"] == "resnet18_w8"


def test_the_run_folder_is_named_after_the_pretrained_run(settings, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert finetune.run(dataclasses.replace(settings(epochs=1), out=None))["run"] == "logs/finetune-run_0000"


def test_precision_and_label_smoothing_reach_the_training(settings):
    plain, config = settings("plain", epochs=1), settings(epochs=1, precision="bf16", label_smoothing=0.5)
    finetune.run(plain)
    finetune.run(config)
    assert load(config).config["method_options"] == {"label_smoothing": 0.5}
    assert load(config).config["precision"] == "bf16"
    assert records(Path(plain.out))[0]["loss"] != records(Path(config.out))[0]["loss"]


def test_the_settings_of_an_arm_say_what_it_started_from(settings, trained):
    config = settings(from_scratch=True, epochs=1, scratch_lr=0.2)
    finetune.run(config)
    tuned, scratch = load(config).config, load(config, "scratch").config
    assert tuned["network"]["checkpoint"] == str(trained / "checkpoint.pt")
    assert scratch["network"] is None
    assert (tuned["lr"], scratch["lr"]) == (0.3, 0.2)
