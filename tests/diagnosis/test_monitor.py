"""The monitor in any loop: its metrics, and that nothing of the training changes."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fork_server import run_ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from helpers import same_bits
from ssltool import Monitor
from ssltool.diagnosis.layer_metrics import MEASURED, knn_accuracy, measured_layer
from ssltool.diagnosis.monitor import Check
from ssltool.errors import SSLToolError

IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(dropout: float = 0.2) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "backbone": nn.Sequential(
                nn.Conv2d(3, 12, 3),
                nn.BatchNorm2d(12),
                nn.ReLU(inplace=True),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Dropout(dropout),
            ),
            "projector": nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Linear(16, 8)),
        }
    )


class Whole(nn.Module):
    """The same network as one module, whose forward pass returns something else than its layers' outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = network()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        return {"z": self.parts["projector"](self.parts["backbone"](x)).square_()}


def of(net: nn.ModuleDict, **more: Any) -> Monitor:
    return Monitor(IMAGES, dict(net.items()), **more)


def train(net: nn.Module, run: Callable[[Tensor], Tensor], look: Callable[[int, Tensor], object], steps: int) -> Any:
    """A training with dropout, batch norm and momentum, on random numbers of every source."""
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step in range(steps):
        x = torch.randn(8, 3, 8, 8) + random.random() + float(np.random.rand())
        loss = run(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        look(step, loss)
        optimizer.step()
        losses.append(loss.detach())
    return net.state_dict(), optimizer.state_dict(), losses, torch.rand(3), [random.random(), float(np.random.rand())]


def chain(net: nn.ModuleDict) -> Callable[[Tensor], Tensor]:
    return lambda x: net["projector"](net["backbone"](x))


@settings(max_examples=8)
@given(every=st.integers(1, 7), kind=st.sampled_from(["chain", "forward", "lambda", "loader"]))
def test_a_training_is_bit_equal_with_and_without_the_monitor(every, kind):
    def run(watched: bool) -> Any:
        model = Whole()
        layers = dict(model.parts.items())
        images = IMAGES if kind != "loader" else DataLoader(TensorDataset(IMAGES), batch_size=16, shuffle=True)
        forward = {"forward": model, "lambda": lambda x: model(x)}.get(kind)
        monitor = Monitor(images, layers, every=every, forward=forward) if watched else None
        found = train(model, lambda x: model(x)["z"], monitor.step if monitor else lambda step, loss: None, 20)
        assert monitor is None or len(monitor.history) == -(-20 // every)
        return found

    assert same_bits(run(True), run(False))


@pytest.mark.parametrize("hooked", [False, True])
def test_a_look_restores_each_training_flag_and_buffer_and_leaves_no_hook(hooked):
    model = Whole()
    model.train()
    model.parts["backbone"][1].eval()  # a frozen batch norm
    flags = {name: module.training for name, module in model.named_modules()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Monitor(IMAGES, dict(model.parts.items()), forward=model if hooked else None).look(0)
    assert flags == {name: module.training for name, module in model.named_modules()}
    assert same_bits(before, dict(model.state_dict()))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_hooks_and_flags_are_restored_after_an_error():
    model = Whole()

    def broken(x: Tensor) -> None:
        model(x)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        Monitor(IMAGES, dict(model.parts.items()), forward=broken).look(0)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    x = model(IMAGES)["z"]
    assert x.requires_grad and int(model.calls) == 1


def test_what_a_layer_keeps_in_a_look_can_be_trained_with():
    """A tensor of inference mode could not be part of a gradient."""

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.kept: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            pooled = x.mean(dim=(2, 3))
            self.kept = pooled.mean(dim=0) if self.kept is None else self.kept
            return pooled * self.weight + self.kept

    layer = Keeps()
    Monitor(IMAGES, {"backbone": layer}).look(0)
    (layer(IMAGES) * layer.weight).sum().backward()
    assert layer.weight.grad is not None


def test_the_images_and_an_earlier_output_may_be_changed_in_place():
    double = nn.ReLU(inplace=True)
    spread = torch.randn(40, 6, 1, 1, generator=torch.Generator().manual_seed(1))
    monitor = Monitor(spread, {"first": nn.Flatten(), "second": double, "third": lambda x: x.mul_(0)})
    first = monitor.look(0).layers
    again = monitor.look(1).layers
    assert first["first"] == pytest.approx({key: again["first"][key] for key in first["first"]}, nan_ok=True)
    assert first["first"]["effective_rank"] > 5 > first["third"]["effective_rank"] == 0
    assert torch.equal(spread, torch.randn(40, 6, 1, 1, generator=torch.Generator().manual_seed(1)))


def rows_of(net: nn.ModuleDict) -> dict[str, Tensor]:
    net.eval()
    with torch.no_grad():
        backbone = net["backbone"](IMAGES)
        rows = {"backbone": backbone.clone(), "projector": net["projector"](backbone.clone())}
    net.train()
    return rows


@pytest.mark.parametrize("way", ["chain", "forward", "keys"])
def test_metrics_equal_those_of_collapse_on_the_same_rows_in_a_file(way, ssltool, write_reprs):
    net = network()
    layers: dict[str, Any] = dict(net.items())
    if way == "keys":
        layers = {
            "backbone": lambda x: {"features": net["backbone"](x)}["features"],
            "projector": (lambda x: {"z": net["projector"](x)}, "z"),
        }
    forward = (lambda x: chain(net)(x)) if way == "forward" else None
    monitor = Monitor(IMAGES, layers, forward=forward, bounds={"projector": 8})
    rows = monitor.embed()
    for layer, expected in rows_of(net).items():
        torch.testing.assert_close(rows[layer], expected, rtol=1e-5, atol=1e-6)
    check = monitor.look(7, loss=0.5)
    assert (check.record["step"], check.record["loss"]) == (7, 0.5)
    for layer, x in rows.items():
        (found,) = ssltool("collapse", write_reprs(f"{layer}.pt", x, directions=monitor.bounds[layer]), "--json").json[
            "files"
        ]
        ours = {name: check.record[f"{layer}_{name}"] for name in MEASURED}
        theirs = {name: found["metrics"][name] for name in MEASURED}
        assert {k for k, v in ours.items() if v is None} == {k for k, v in theirs.items() if v is None}
        known = [name for name in MEASURED if ours[name] is not None]
        assert [ours[k] for k in known] == pytest.approx([theirs[k] for k in known], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("n", "d"), [(200, 40), (40, 200), (64, 64), (2, 5), (5, 1)])
def test_small_singular_values_are_exact(n, d):
    """A Gram matrix would lose those below 1e-7 of the largest."""
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(k, min(n, d), generator=generator, dtype=torch.float64)).Q for k in (n, d))
    x = ((u * torch.logspace(0, -9, min(n, d), dtype=torch.float64)) @ v.T).float()
    array = x.double().numpy()
    _, s = measured_layer(x)
    expected = np.linalg.svd(array - array.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(s.numpy(), expected, rtol=1e-5, atol=1e-14 * expected[0])


def test_metrics_of_non_finite_outputs_are_nan():
    x = torch.randn(20, 5)
    x[3, 2] = math.inf
    values, s = measured_layer(x)
    assert all(math.isnan(value) for value in values.values()) and s is None
    assert math.isnan(knn_accuracy(x, torch.arange(20) % 2)["knn"])


def test_dead_dimensions_are_counted():
    x = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    x[:, :3] = 1.0
    x[:, 3] *= 1e-6
    assert measured_layer(x)[0]["dead_dimensions"] == 4


def test_it_looks_at_multiples_of_every_and_never_twice_at_one_step():
    monitor = of(network(), every=5)
    found = [monitor.step(step) for step in (0, 0, 1, 4, 5, 5, 5, 7, 10, 10)]
    assert [check.step for check in found if check is not None] == [0, 5, 10]
    assert isinstance(monitor.look(10), Check)


def test_constant_outputs_are_a_complete_collapse_with_its_cause():
    net = network()
    with torch.no_grad():
        for parameter in net["projector"].parameters():
            parameter.zero_()
    check = of(net, constant_losses=(-1.0, 0.0)).look(100, loss=torch.tensor(-0.999, requires_grad=True))
    assert (check.state, check.layer) == ("complete", "projector")
    (warning,) = check.warnings
    assert "projector" in warning and "-0.999" in warning
    assert "projector" in str(check) and "complete collapse" in str(check)


def test_an_untrained_network_is_measured_but_no_alarm():
    monitor = of(network())
    first = monitor.look(0)
    assert first.state is not None and first.warnings == []
    later = monitor.look(1)
    assert len(later.warnings) == (later.state != "healthy")


def test_an_unchanged_verdict_gives_no_further_warning():
    net = network()
    with torch.no_grad():
        net["projector"][3].weight.zero_()
    monitor = of(net)
    assert [len(monitor.look(step).warnings) for step in (1, 2, 3)] == [1, 0, 0]


def test_non_finite_outputs_give_no_verdict():
    net = network()
    with torch.no_grad():
        net["projector"][3].bias.fill_(math.nan)
    check = of(net).look(1)
    assert check.verdict is None is check.record["projector_auc"] and check.record["backbone_auc"] is not None
    assert "projector" in check.warnings[0] and str(check)
    json.dumps(check.record, allow_nan=False)


class Out(nn.Module):
    """A layer that returns ``make`` of the images."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


@pytest.mark.parametrize("hooked", [False, True])
def test_maps_are_averaged_over_positions_and_tokens_over_tokens_said_once(hooked):
    for make, word, mean in (
        (lambda x: x, "positions", IMAGES.mean(dim=(2, 3))),
        (lambda x: x.flatten(2).mT, "tokens", IMAGES.mean(dim=(2, 3))),
    ):
        layer = Out(make)
        monitor = Monitor(IMAGES, {"encoder": layer}, forward=layer if hooked else None)
        first, second = monitor.look(0), monitor.look(1)
        assert torch.allclose(monitor.embed()["encoder"], mean, atol=1e-6)
        (said,) = first.warnings
        assert "encoder" in said and word in said
        assert not any(word in warning for warning in second.warnings)


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (lambda x: {"features": x}, "features"),
        (lambda x: (x, x), "tuple of 2"),
        (lambda x: None, "None"),
        (lambda x: x.mean(), "()"),
        (lambda x: x[:3].flatten(1), "(3, 192)"),
        (lambda x: x.flatten(1).long(), "int64"),
        (lambda x: x[..., None], "(40, 3, 8, 8, 1)"),
    ],
)
@pytest.mark.parametrize("hooked", [False, True])
def test_other_outputs_are_an_error_that_names_them(made, named, hooked):
    layer = Out(made)
    with pytest.raises(SSLToolError) as error:
        Monitor(IMAGES, {"encoder": layer}, forward=layer if hooked else None).look(0)
    assert "encoder" in str(error.value) and named in str(error.value) and "\n" not in str(error.value)


def test_a_key_chooses_from_a_dict_a_tuple_or_an_attribute():
    class Answer:
        pooled = IMAGES.flatten(1)[:, :7]

    for make, key, width in (
        (lambda x: {"z": x.flatten(1)}, "z", 192),
        (lambda x: (x, x.flatten(1)[:, :5]), 1, 5),
        (lambda x: Answer, "pooled", 7),
    ):
        assert Monitor(IMAGES, {"encoder": (Out(make), key)}).embed()["encoder"].shape == (40, width)
        with pytest.raises(SSLToolError, match="missing"):
            Monitor(IMAGES, {"encoder": (Out(make), "missing")}).look(0)


@pytest.mark.parametrize("times", [0, 2])
def test_a_layer_that_forward_does_not_call_once_is_an_error(times):
    layer = nn.Flatten()
    with pytest.raises(SSLToolError, match=f"'encoder' {times} times"):
        Monitor(IMAGES, {"encoder": layer}, forward=lambda x: [layer(x) for _ in range(times)]).look(0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"images": 3}, "int"),
        ({"images": torch.zeros(3, 5)}, "(3, 5)"),
        ({"images": IMAGES[:1]}, "1"),
        ({"images": []}, "no batch"),
        ({"images": [{"picture": IMAGES}]}, "dict"),
        ({"images": [([IMAGES, IMAGES], 0)]}, "list"),
        ({"images": [IMAGES, IMAGES[:, :, :4]]}, "shapes"),
        ({"layers": {}}, "layers"),
        ({"layers": {"encoder": 3}}, "encoder"),
        ({"layers": {"encoder": torch.relu}, "forward": torch.relu}, "encoder"),
        ({"forward": 3}, "forward"),
        ({"every": 0}, "every"),
        ({"every": 2.5}, "every"),
        ({"size": 1}, "size"),
        ({"labels": [1, 2]}, "labels"),
        ({"labels": torch.rand(40)}, "labels"),
        ({"bounds": {"encodr": 3}}, "encodr"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_in_one_line(arguments, named):
    with pytest.raises(SSLToolError) as error:
        Monitor(**{"images": IMAGES, "layers": {"encoder": nn.Flatten()}} | arguments)
    assert named in str(error.value) and "\n" not in str(error.value)


def test_a_loader_gives_up_to_size_images_and_their_labels_without_drawing_random_numbers():
    labels = torch.arange(40) % 2
    own = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(IMAGES, labels), batch_size=16, shuffle=True, generator=own)
    states = torch.get_rng_state(), own.get_state()
    monitor = Monitor(loader, {"encoder": nn.Flatten()}, size=20)
    assert torch.equal(torch.get_rng_state(), states[0]) and torch.equal(own.get_state(), states[1])
    record = monitor.look(0).record
    assert monitor.embed()["encoder"].shape == (20, 192) and 0 <= record["encoder_knn"] <= 1
    expected = torch.cat([y for _, y in loader])[:20]  # the order that the training sees
    assert torch.equal(monitor.probe.labels, expected)


def test_a_training_that_goes_on_with_the_same_loader_sees_the_same_batches():
    def seen(watched: bool) -> list[Tensor]:
        torch.manual_seed(3)
        loader = DataLoader(TensorDataset(IMAGES), batch_size=16, shuffle=True)
        if watched:
            Monitor(loader, {"encoder": nn.Flatten()}, size=16)
        return [x for (x,) in loader]

    assert same_bits(seen(True), seen(False))


@pytest.mark.parametrize("keys", [("image", "label"), ("images", "labels"), ("pixel_values", "labels")])
def test_batches_may_be_dicts(keys):
    labels = torch.arange(40) % 2
    batches = [dict(zip(keys, part, strict=True)) for part in zip(IMAGES.split(16), labels.split(16), strict=True)]
    monitor = Monitor(batches, {"encoder": nn.Flatten()}, size=30)
    assert torch.equal(monitor.embed()["encoder"], IMAGES[:30].flatten(1))
    assert torch.equal(monitor.probe.labels, labels[:30])


def test_autocast_and_the_type_of_the_weights_do_not_reach_the_rows():
    net = network(0.0)
    plain = of(net).embed()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same_bits(of(net).embed(), plain)
    assert {rows.dtype for rows in of(net.bfloat16()).embed().values()} == {torch.float32}


def linear(*after: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 32), *after)


@pytest.mark.parametrize(
    ("layer", "bound"),
    [
        (nn.Linear(192, 32), 32),
        (linear(), 4),
        (linear(nn.BatchNorm1d(32), nn.Dropout(), nn.Identity()), 4),
        (nn.Sequential(nn.Identity(), nn.Sequential(linear())), 4),
        (linear(nn.ReLU()), None),
        (nn.Sequential(), None),
        (nn.Identity(), None),
        (torch.relu, None),
    ],
    ids=["linear", "sequential", "normalised", "nested", "activated", "empty", "no linear", "function"],
)
def test_the_bound_is_that_of_the_last_linear_layer(layer, bound):
    assert Monitor(IMAGES, {"encoder": layer}).bounds == {"encoder": bound}
    assert Monitor(IMAGES, {"encoder": layer}, bounds={"encoder": 3}).bounds == {"encoder": 3}


def test_rows_of_rank_4_of_32_are_healthy_with_their_bound_only():
    x = torch.randn(200, 192, 1, 1, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Linear(4, 32))
    states = [Monitor(x, {"backbone": net}, bounds=b).look(1).state for b in (None, {"backbone": 32})]
    assert states == ["healthy", "partial"]


def votes_by_hand(x: Tensor, labels: Tensor, k: int) -> float:
    """Leave-one-out by loops: k most similar others by cosine, the most votes, the smallest label of several."""
    unit = (x / x.norm(dim=1, keepdim=True)).double().numpy()
    right = 0
    for i, row in enumerate(unit):
        near = sorted((j for j in range(len(unit)) if j != i), key=lambda j: -float(row @ unit[j]))[:k]
        tally = Counter(int(labels[j]) for j in near)
        right += min(tally, key=lambda label: (-tally[label], label)) == int(labels[i])
    return right / len(unit)


@pytest.mark.parametrize("n", [60, 12], ids=["20 voters", "all others"])
def test_knn_is_the_leave_one_out_accuracy(n):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(1))
    labels = (x[:, 0] > 0).long() + 5 * (x[:, 1] > 1).long()
    assert knn_accuracy(x, labels) == {"knn": votes_by_hand(x, labels, min(20, n - 1))}
    found = Monitor(x[:, :, None, None], {"encoder": nn.Flatten(), "head": nn.Identity()}, labels=labels).look(0).record
    assert found["encoder_knn"] == knn_accuracy(x, labels)["knn"] and "head_knn" not in found


def test_unlabelled_rows_are_ignored_by_knn():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    labels = (x[:, 0] > 0).long()
    labels[::4] = -1
    assert knn_accuracy(x, labels) == knn_accuracy(x[labels >= 0], labels[labels >= 0])


@pytest.mark.parametrize("labels", [torch.full((10,), -1), torch.zeros(10, dtype=torch.int64)])
def test_fewer_than_two_classes_give_no_knn(labels):
    assert knn_accuracy(torch.randn(10, 3), labels) == {}


def test_compiled_and_parallel_wrappers_are_taken_off():
    net = network(0.0)
    plain = of(net).embed()
    wrapped = {name: torch.compile(nn.DataParallel(part)) for name, part in net.items()}
    assert same_bits(Monitor(IMAGES, wrapped).embed(), plain)
    whole = torch.compile(nn.Sequential(net["backbone"], net["projector"]))
    assert same_bits(Monitor(IMAGES, dict(net.items()), forward=whole).embed(), plain)


def test_slow_looks_are_said_once_and_the_first_does_not_count(monkeypatch):
    """Looks of 2 s after 10 s of training; the clock is read at the start of a step, and at both ends of a look."""
    clock = iter([at + used for at in range(0, 100, 12) for used in (0, 0, 2)])
    monkeypatch.setattr("ssltool.diagnosis.monitor.time.perf_counter", lambda: next(clock))
    monitor = of(network(), every=10)
    said = [[line for line in monitor.step(step).warnings if "every=" in line] for step in (10, 20, 30, 40)]
    assert said[0] == said[1] == said[3] == []
    (line,) = said[2]
    assert "10%" in line and "every=20 " in line


def test_nothing_distributed_is_imported_without_a_process_group():
    code = (
        "import sys, torch, ssltool; "
        "ssltool.Monitor(torch.randn(9, 3, 2, 2), {'backbone': torch.nn.Flatten()}).look(0); "
        "print('ssltool.training.distributed' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


RANKS = '''
"""What each of two ranks finds; they meet as those of another program, not as torchrun's."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP

from ssltool import Monitor

rank, out = int(os.environ.pop("RANK")), Path(sys.argv[1])
del os.environ["WORLD_SIZE"]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{out / 'meet'}", rank=rank, world_size=2)
images = torch.load(out / "images.pt", weights_only=True)
torch.manual_seed(0)
backbone = nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
ddp = DDP(backbone)
backbone[1].running_mean += rank  # buffers that an exchange would make equal
before = backbone[1].running_mean.clone()
found = {}
labels = torch.arange(41) % 2
if rank == 1:
    backbone[1].running_mean -= 1
    same = backbone[1].running_mean.clone()
    assert torch.equal(same + 1, before)
first = Monitor(images, {"backbone": ddp}, out=out / "run", labels=labels, every=2)
found["shared"] = first.look(0, loss=float(rank)).record
through = Monitor(images, {"backbone": backbone}, forward=lambda x: ddp(x), labels=labels)
found["forward"] = through.look(0, loss=float(rank)).record
own = images[rank * 20 : rank * 20 + 20 + rank]  # 20 images and 21
monitor = Monitor([(own, labels[rank * 20 : rank * 20 + 20 + rank])], {"backbone": backbone}, size=60)
found["own"] = monitor.look(0, loss=float(rank)).record
backbone[1].running_mean += rank
here = backbone[1].running_mean.clone()
through.look(1)
assert torch.equal(here, backbone[1].running_mean)  # not exchanged


def trained(watched):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = DDP(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    monitor = Monitor(images, {"backbone": model}, every=2) if watched else None
    for step in range(5):
        loss = model(images[rank::2] + torch.randn(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if monitor is not None:
            monitor.step(step, loss)
    assert monitor is None or len(monitor.history) == 3
    return net.state_dict()


first, second = trained(True), trained(False)
found["bit-equal"] = all(torch.equal(first[name], second[name]) for name in first)
(out / f"rank{rank}.json").write_text(json.dumps(found))
dist.destroy_process_group()
'''


def test_two_ranks_share_the_images_find_what_one_process_finds_and_train_the_same_bits(tmp_path, server):
    """41 images are not divisible by two. Each rank gives its share, or the images that only it has."""
    images = torch.randn(41, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.save(images, tmp_path / "images.pt")
    (tmp_path / "program.py").write_text(RANKS)
    ran = run_ranks(server, tmp_path / "program.py", tmp_path)
    assert ran.returncode == 0, ran.stderr
    found = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert [one.pop("bit-equal") for one in found] == [True, True]
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    alone = Monitor(images, {"backbone": backbone}, labels=torch.arange(41) % 2).look(0, loss=0.5).record
    for key in ("shared", "forward", "own"):
        first, second = ({k: v for k, v in one[key].items() if k != "monitor_seconds"} for one in found)
        assert first == second
        for name, value in first.items():
            number = isinstance(value, float)
            assert value == (pytest.approx(alone[name], rel=1e-4) if number else alone[name]), (key, name)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
