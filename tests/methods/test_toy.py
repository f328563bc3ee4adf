"""A method that a plug-in could add, and the calls of the training loop to a method.

Toy: nobody, never."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers import records, same_run, usage_message
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.data.images import open_dataset
from ssltool.data.loader import Batch
from ssltool.errors import Interrupted
from ssltool.methods import METHODS, Entry
from ssltool.methods.base import EpochImages, Method, Output, RunFacts
from ssltool.methods.options import LabelledSupport, MethodOptions, width
from ssltool.reprs.representations import Representations
from ssltool.settings import setting
from ssltool.stages.pretrain import run as pretrain


@dataclass(frozen=True)
class ToyOptions(MethodOptions):
    """Options of the toy method."""

    dim: int = width(4)
    pull: float = setting(0.5, "how strongly the views attract each other", above=0)


class Toy(Method):
    """Aligns the two views of an image; a buffer accumulates the sum of all projections."""

    Options = ToyOptions
    total: Tensor

    def __init__(self, backbone: nn.Module, dim: int, options: Any, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = nn.Linear(dim, getattr(options, "dim", 4))
        self.register_buffer("total", torch.zeros(self.projector.out_features))

    def forward(self, batch: Batch) -> Output:
        z1, z2 = (self.projector(self.backbone(view)).float() for view in batch.views)
        self.total += z1.detach().sum(dim=0)
        return Output(getattr(self.options, "pull", 1.0) * (z1 - z2).square().mean(), z1.detach())


@pytest.fixture
def register(registries):
    """Adds a class to the registry as the method ``toy``, in place of an earlier one: ``register(Toy)``."""

    def add(cls: type[Method]) -> None:
        METHODS._entries.pop("toy", None)
        METHODS.add("toy", Entry(cls, 2026, "0000.00000", "nothing", "two views"))

    return add


@pytest.fixture
def config(tiny):
    """Settings of a tiny run of ``toy``: ``config(epochs=3)``."""

    def make(out: str | Path = "run", **changes: Any):
        return tiny(out, **({"method": "toy", "dim": None, "pred_dim": None} | changes))

    return make


# From the registry to representations


def test_registered_method_is_listed_and_described(register, ssltool):
    register(Toy)
    assert ssltool("methods").out.partition("other:")[2].split()[:2] == ["toy", "2026"]
    page = ssltool("methods", "toy")
    assert page.code == 0 and "Toy: nobody, never." in page.out
    assert "how strongly the views attract each other" in page.out


def test_registered_method_works_with_all_commands(register, ssltool, tmp_path):
    register(Toy)
    flags = ["-a", "resnet18_w8", "--stem", "small-stride2", "--image-size", 16, "-b", 16, "--device", "cpu"]
    flags += ["--method", "toy", "--set", "pull=2", "--dim", 6, "--epochs", 2, "--steps-per-epoch", 3]
    plan = ssltool("pretrain", *flags, "-o", tmp_path / "run", "--dry-run", "--json")
    assert plan.json["config"]["method_options"] == {"dim": 6, "pull": 2.0}
    ran = ssltool("pretrain", *flags, "-o", tmp_path / "run", "--json")
    assert ran.code == 0 and "toy resnet18_w8" in ran.err
    np.save(tmp_path / "few.npy", np.arange(7))
    for layer, dim in (("backbone", 64), ("projector", 6)):
        reading = ["--idx-path", tmp_path / "few.npy", "--layer", layer, "-o", tmp_path / f"{layer}.pt"]
        saved = ssltool("save-reprs", "--pretrained", ran.json["checkpoint"], *reading, "--device", "cpu")
        assert saved.code == 0, saved.err
        assert Representations.load(tmp_path / f"{layer}.pt").representations.shape == (7, dim)
    refused = ssltool("save-reprs", "--pretrained", ran.json["checkpoint"], *reading, "--layer", "predictor")
    assert refused.code == 1 and "--layer predictor: this model has no predictor" in refused.err


def test_options_of_a_registered_method_are_checked(register, ssltool):
    register(Toy)
    for option, message in (
        ("pul=2", "'pul'; did you mean pull"),
        ("pull=0", "--set pull"),
    ):
        ran = ssltool("pretrain", "--method", "toy", "--set", option)
        assert message in usage_message(ran)


@pytest.mark.parametrize("done", [2, 3], ids=["at the end of an epoch", "in mid-epoch"])
def test_registered_method_resumes_bit_identically_with_its_buffers(register, config, interrupt_at, done):
    register(Toy)
    whole = pretrain(config("whole"))
    interrupt_at(done)
    with pytest.raises(Interrupted):
        pretrain(config())
    run = pretrain(config(resume="auto"))
    assert same_run(whole, run)
    assert Checkpoint.load(run / "checkpoint.pt").state_dict["total"].abs().min() > 0


# Calls of the training loop


class Watched(Toy):
    """Records the calls of the training loop."""

    calls: list[tuple[Any, ...]]

    def start_epoch(self, images: EpochImages) -> None:
        self.calls.append(("epoch", *self.now, len(images.rows)))

    def forward(self, batch: Batch) -> Output:
        self.calls.append(("forward", *self.now))
        return super().forward(batch)

    def before_update(self) -> None:
        self.before = self.projector.weight.detach().clone()
        self.calls.append(("gradients", self.projector.weight.grad is not None))

    def after_step(self) -> None:
        self.calls.append(("updated", not torch.equal(self.before, self.projector.weight)))

    def diagnose(self, loss: float) -> str | None:
        self.calls.append(("loss", loss))
        return f"nothing is right at {loss}"


STEP = [("gradients", True), ("updated", True)]


@pytest.fixture
def watched(register):
    """A registered method whose class records the calls of the training loop in ``calls``."""

    class Fresh(Watched):
        calls: list[tuple[Any, ...]] = []  # noqa: RUF012

    register(Fresh)
    return Fresh


def test_the_loop_calls_a_method_per_epoch_and_step_and_sets_now(watched, config):
    run = pretrain(config(steps_per_epoch=2, strategy="current"))
    losses = [line["loss"] for line in records(run)]
    assert watched.calls == [
        ("epoch", 0, 0, 4000),
        *[("forward", 0, 0), *STEP],
        *[("forward", 0, 1), *STEP],
        ("loss", losses[0]),
        ("epoch", 1, 2, 4000),
        *[("forward", 1, 2), *STEP],
        *[("forward", 1, 3), *STEP],
        ("loss", losses[1]),
    ]


def test_start_epoch_is_not_called_again_for_a_resumed_epoch(watched, config, interrupt_at):
    interrupt_at(3)
    with pytest.raises(Interrupted):
        pretrain(config())
    watched.calls.clear()
    pretrain(config(resume="auto"))
    assert [call for call in watched.calls if call[0] in ("epoch", "forward")] == [("forward", 1, 4), ("forward", 1, 5)]


def test_diagnosis_of_an_epoch_is_a_warning_on_stderr(watched, config, capsys):
    run = pretrain(config(monitor_every=0))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert lines == [f"warning: epoch {line['epoch'] + 1}: nothing is right at {line['loss']}" for line in records(run)]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_gradients_before_an_update_are_those_of_the_loss_at_any_precision(register, config, precision):
    found: list[float] = []

    class Linear(Toy):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.slope = nn.Parameter(torch.zeros(()))

        def forward(self, batch: Batch) -> Output:
            output = super().forward(batch)
            return output._replace(loss=output.loss + 3.0 * self.slope)

        def before_update(self) -> None:
            found.append(float(self.slope.grad))

    register(Linear)
    pretrain(config(precision=precision, epochs=1))
    assert found == [3.0] * 3


def test_the_last_batch_of_epoch_images_is_padded_with_the_first_rows(register, config):
    seen: list[tuple[list[int], list[Batch], list[Batch]]] = []

    class Looking(Toy):
        def start_epoch(self, images: EpochImages) -> None:
            some = images.rows[:20]
            seen.append((images.rows.tolist(), list(images.batches(some)), list(images.batches(some))))

    register(Looking)
    run = pretrain(config(strategy="current"))
    order = np.load(run / "order.npy")
    for epoch, (rows, batches, again) in enumerate(seen):
        assert rows == sorted(order[4000 * epoch : 4000 * (epoch + 1)])
        assert [batch.rows.tolist() for batch in batches] == [rows[:16], rows[16:20] + rows[:12]]
        for one, other in zip(batches, again, strict=True):
            assert [view.shape for view in one.views] == [(16, 3, 16, 16)] * 2
            assert all(torch.equal(a, b) for a, b in zip(one.views, other.views, strict=True))
    assert len(seen) == 2


def test_using_images_in_start_epoch_does_not_change_the_steps(register, config):
    class Looking(Toy):
        def start_epoch(self, images: EpochImages) -> None:
            for _ in images.batches(images.rows[:40]):
                torch.rand(3)

    register(Toy)
    plain = pretrain(config("plain"))
    register(Looking)
    assert same_run(plain, pretrain(config("looking")))


# Labels


def labels_seen(register, config, **attributes: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The labels and rows that a method is given in its steps, and the labels before them."""
    labels, rows, before = [], [], []

    class Probe(Toy):
        def start_epoch(self, images: EpochImages) -> None:
            before.extend(batch.labels for batch in images.batches(images.rows[:32]))

        def forward(self, batch: Batch) -> Output:
            labels.append(batch.labels)
            rows.append(batch.rows)
            return super().forward(batch)

    for name, value in attributes.items():
        setattr(Probe, name, value)
    register(Probe)
    pretrain(config())
    assert labels and before
    return labels, rows, before


def true_labels(config, rows: Tensor) -> list[int]:
    return open_dataset(config(), "train").labels[rows.numpy()].tolist()


def test_labels_are_hidden_from_methods_without_uses_labels(register, config):
    labels, rows, _ = labels_seen(register, config)
    assert {len(row.unique()) for row in rows} == {16}
    assert torch.cat(labels).tolist() == [-1] * 2 * 3 * 16


def test_labels_are_hidden_in_start_epoch_too(register, config):
    _, _, before = labels_seen(register, config)
    assert set(torch.cat(before).tolist()) == {-1}


def test_labels_are_given_to_methods_with_uses_labels(register, config):
    labels, rows, _ = labels_seen(register, config, uses_labels=True)
    assert torch.cat(labels).tolist() == true_labels(config, torch.cat(rows))


def test_only_labels_of_the_support_are_given_to_methods_with_a_support(register, config):
    supports: list[Batch] = []

    class Some(Toy):
        Options = LabelledSupport

        def forward(self, batch: Batch) -> Output:
            assert set(batch.labels.tolist()) == {-1}
            supports.append(batch.support)
            return super().forward(batch)

    register(Some)
    given = ("labels_fraction=0.02", "support_classes=3", "support_per_class=2")
    pretrain(config(options=given))
    assert len(supports) == 6
    for support in supports:
        assert [view.shape for view in support.views] == [(6, 3, 16, 16)]
        assert sorted(Counter(support.labels.tolist()).values()) == [2, 2, 2]
    assert len({tuple(support.rows.tolist()) for support in supports}) == 6


def test_support_resumes_bit_identically(register, config, interrupt_at):
    class Some(Toy):
        Options = LabelledSupport

        def forward(self, batch: Batch) -> Output:
            loss = (self.projector(self.backbone(batch.support.views[0])) - 1.0).square().mean()
            return super().forward(batch)._replace(loss=loss)

    register(Some)
    whole = pretrain(config("whole"))
    interrupt_at(3)
    with pytest.raises(Interrupted):
        pretrain(config())
    assert same_run(whole, pretrain(config(resume="auto")))
