"""Classifiers trained in parallel end with the weights that each has if trained alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from probe_helpers import clouds
from ssltool import seeds
from ssltool.checkpoints.probe import Probe
from ssltool.config import LinclsConfig
from ssltool.errors import SSLToolError
from ssltool.stages import lincls
from ssltool.stages.lincls.linear_heads import Heads, score
from ssltool.training.classification import linear_classifier

CPU = torch.device("cpu")
RATES = (0.01, 0.3, 2.0)


def heads(count: int, optimizer: str) -> Heads:
    start = linear_classifier(6, 3, seeds.generator(1))
    return Heads(start, count, optimizer, momentum=0.9, weight_decay=0.01, device=CPU)


def learn(one: Heads, rates) -> list[torch.Tensor]:
    """The weights after 12 steps on the same batches."""
    x, y = clouds(96)
    one.set_rates(rates)
    for low in range(0, 96, 8):
        one.update(x[low : low + 8], y[low : low + 8], 8)
    return [weight for weight, _ in one.classifiers()]


@pytest.mark.parametrize("optimizer", ["sgd", "larc", "lars"])
def test_parallel_classifiers_end_with_the_weights_of_each_trained_alone(optimizer):
    together = learn(heads(3, optimizer), RATES)
    for rate, weight in zip(RATES, together, strict=True):
        torch.testing.assert_close(weight, learn(heads(1, optimizer), [rate])[0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(together[0], together[1], rtol=1e-2)


def test_a_single_classifier_equals_torchs_sgd():
    x, y = clouds(96)
    layer = linear_classifier(6, 3, seeds.generator(1))
    sgd = torch.optim.SGD(layer.parameters(), 0.3, momentum=0.9, weight_decay=0.01)
    for low in range(0, 96, 8):
        sgd.zero_grad()
        torch.nn.functional.cross_entropy(layer(x[low : low + 8]), y[low : low + 8]).backward()
        sgd.step()
    assert torch.equal(learn(heads(1, "sgd"), [0.3])[0], layer.weight)


def test_a_classifier_that_diverges_does_not_affect_the_others():
    together = learn(heads(2, "sgd"), (1e30, 0.3))
    assert not bool(together[0].isfinite().all())
    torch.testing.assert_close(together[1], learn(heads(1, "sgd"), [0.3])[0], rtol=1e-5, atol=1e-6)


def test_losses_and_accuracies_of_an_epoch_are_means_over_its_rows():
    one = heads(2, "sgd")
    one.set_rates((0.0, 0.0))  # nothing moves, so the epoch's means are those of the start
    x, y = clouds(20)
    for part in (slice(0, 16), slice(16, 20)):
        one.update(x[part], y[part], len(y[part]))
    weight, bias = one.classifiers()[0]
    logits = x @ weight.T + bias
    losses, hits = one.finish_epoch(20)
    assert losses == pytest.approx([float(torch.nn.functional.cross_entropy(logits, y))] * 2, rel=1e-6)
    assert hits == [float((logits.argmax(1) == y).double().mean())] * 2
    assert one.finish_epoch(20) == ([0.0, 0.0], [0.0, 0.0])


def test_scores_of_several_classifiers_come_from_one_pass():
    x, y = clouds(50)
    passes = []

    def batches():
        passes.append(1)
        yield x[:30], y[:30]
        yield x[30:], y[30:]

    perfect = (
        torch.eye(3)[:, [0, 1, 2]] @ torch.linalg.lstsq(torch.cat([x, torch.ones(50, 1)], 1), torch.eye(3)[y])[0].T
    )
    found = score(batches(), [(perfect[:, :-1], perfect[:, -1]), (torch.zeros(3, 6), torch.tensor([0.0, 1.0, 0.0]))], 3)
    assert passes == [1]
    wanted = (x @ perfect[:, :-1].T + perfect[:, -1]).argmax(1) == y
    assert found[0]["acc1"] == float(wanted.double().mean())
    assert found[1]["acc1"] == float((y == 1).double().mean())


def test_a_sweep_equals_separate_runs_of_its_learning_rates(on_files, tmp_path):
    swept = lincls.run(on_files(lr_sweep="0.1,3,0.5", out=str(tmp_path / "all")))
    for place, rate in enumerate(("0.1", "3", "0.5")):
        alone = lincls.run(on_files(lr_sweep=rate, out=str(tmp_path / rate)))
        one, other = swept["tried"][place], alone["tried"][0]
        assert one["lr"] == float(rate)
        assert {**one, "loss": 0} == {**other, "loss": 0}
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    best = max(swept["tried"], key=lambda one: (one["held_acc1"], -one["lr"]))
    assert (swept["lr"], swept["held_acc1"]) == (best["lr"], best["held_acc1"])
    alone = Probe.load(tmp_path / f"{best['lr']:g}" / "probe.pt")
    torch.testing.assert_close(Probe.load(tmp_path / "all" / "probe.pt").weight, alone.weight, rtol=1e-4, atol=1e-6)


def test_a_sweep_on_images_equals_the_run_of_its_best_learning_rate(settings, tmp_path):
    swept = lincls.run(settings(lr_sweep="0.1,5", epochs=2, out=str(tmp_path / "all")))
    alone = lincls.run(settings(lr_sweep=str(swept["lr"]), epochs=2, out=str(tmp_path / "one")))
    assert swept["held_size"] == alone["held_size"] == 4
    assert swept["train_size"] == 36
    a, b = (Probe.load(tmp_path / name / "probe.pt").weight for name in ("all", "one"))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "larc", "lars"])
@pytest.mark.parametrize("rate", [1e38, 1e39, 1e300])
def test_a_rate_with_which_a_probe_diverges_is_an_error_or_left_out_of_a_sweep(write_reprs, tmp_path, optimizer, rate):
    labels = torch.arange(30) % 3
    rows = torch.randn(30, 4) + 4 * F.one_hot(labels, 4)
    files = [str(write_reprs(name, rows, labels)) for name in ("train.pt", "val.pt")]

    def config(out: str, **changes) -> LinclsConfig:
        fixed = {"reprs": tuple(files), "batch_size": 5, "epochs": 4, "optimizer": optimizer, "device": "cpu"}
        return LinclsConfig(**fixed | changes, out=str(tmp_path / out))

    with pytest.raises(SSLToolError, match=r"not finite in epoch [1-4]; .*--lr"):
        lincls.run(config("alone", lr=rate))
    alone = lincls.run(config("kept", lr_sweep="0.3", lr=0.1))
    result = lincls.run(config("sweep", lr_sweep=f"0.3,{rate:g}"))
    assert [one["held_acc1"] is None for one in result["tried"]] == [False, True]
    assert result["acc1"] == alone["acc1"]
    probes = [Probe.load(tmp_path / out / "probe.pt") for out in ("kept", "sweep")]
    torch.testing.assert_close(probes[0].weight, probes[1].weight)
    torch.testing.assert_close(probes[0].bias, probes[1].bias)


def test_scores_that_overflow_are_no_accuracy():
    rows = torch.tensor([[1e30, 0.0], [1.0, 2.0]])
    good, bad = torch.eye(2), torch.eye(2) * 1e30
    zero = torch.zeros(2)
    found = score(iter([(rows, torch.tensor([0, 1]))]), [(good, zero), (bad, zero)], 2)
    assert found[0] is not None and found[0]["acc1"] == 1.0
    assert found[1] is None
