"""Properties of all registered methods, on the bundled images: the state that a run changes or keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers import same_bits, slow_but
from methods_helpers import forward_and_update
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.config import LinclsConfig, PretrainConfig, SaveReprsConfig
from ssltool.data.images import open_dataset
from ssltool.data.loader import Batch
from ssltool.data.preprocessing import IMAGENET
from ssltool.data.views import eval_view
from ssltool.errors import SSLToolError
from ssltool.methods import METHODS
from ssltool.methods.base import Method
from ssltool.methods.parts.momentum import MomentumMethod
from ssltool.models.backbones import patch_tokens
from ssltool.reprs.representations import Representations
from ssltool.stages import lincls, save_reprs
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.pretrain.prepare import prepare
from ssltool.stages.pretrain.pretrain import Pretraining
from tiny_methods import (
    MASKED,
    NO_EFFECT,
    NO_PROJECTOR,
    QUICK,
    TINY_METHODS,
    network_of,
    tiny_config,
    tiny_options,
)

pytestmark = pytest.mark.xdist_group("all methods")  # a method's tests share its run

State = dict[str, Tensor]

MOVING = {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.0}
"""Adam moves whatever has a gradient, however small, by about the same; without decay nothing else moves."""

FOLLOWED = ("byol", "moco", "mocov3", "dino", "simdino", "ibot", "dinov2", "ressl", "tico", "directpred", "teacher")
"""Methods with a momentum teacher, whose momentum follows a cosine."""

QUEUES = {
    "moco": ("queue",),
    "nnclr": ("queue",),
    "nnsiam": ("queue",),
    "ressl": ("queue",),
    "swav": ("queues.0", "queues.1"),
}

PREDICTORS = ("simsiam", "byol", "mocov3", "nnclr", "nnsiam", "paws", "directpred")


@dataclass
class Recorded:
    """A recorded run: initial weights, and state, loss and feature_std of each step."""

    name: str
    method: Method
    path: Path
    states: list[State]
    losses: list[float] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)


def copied(method: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


def recorded(config: PretrainConfig) -> Recorded:
    """Runs ``config``."""
    fresh = prepare(config).build_method()
    found = Recorded(config.method, fresh, Path(str(config.out)), [copied(fresh)])
    step = Pretraining.step

    def stepping(run: Pretraining, batch: Any) -> Any:
        values = step(run, batch)
        loss, spread = (value.item() for value in values)
        found.states.append(copied(run.state.method))
        found.losses.append(loss)
        found.spreads.append(spread)
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pretraining, "step", stepping)
        pretrain(config)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("all")


@pytest.fixture(scope="module", params=METHODS)
def run(request, folder, trained) -> Recorded:
    """Ten steps of a method, in two epochs."""
    return recorded(tiny_config(request.param, folder / request.param, trained, overwrite=True, **MOVING))


@pytest.fixture(scope="module")
def steps(folder, trained):
    """Two steps of a method with other options, in two epochs: ``steps("byol", {"momentum": 0})``."""
    kept: dict[str, Recorded] = {}

    def go(method: str, options: dict[str, Any], **settings: Any) -> Recorded:
        name = "-".join([method, *(f"{k}={v}" for k, v in (options | settings).items())])
        if name in kept:
            return kept[name]
        schedule = {"epochs": 2, "steps_per_epoch": 1, "overwrite": True}
        found = recorded(tiny_config(method, folder / name, trained, options=options, **(MOVING | schedule | settings)))
        if not settings:
            kept[name] = found
        return found

    return go


def differing(before: State, after: State) -> set[str]:
    """Names of entries that are not bit-identical."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def of(prefix: str, state: State) -> State:
    """The part of a state under ``prefix``, without it."""
    return {name.removeprefix(f"{prefix}."): x for name, x in state.items() if name.startswith(f"{prefix}.")}


def pairs(state: State, method: Method) -> list[tuple[str, str]]:
    """Pairs of parameter names: the teacher's, and the corresponding one of the network."""
    names = [name for name, _ in method.named_parameters() if name.startswith("teacher.")]
    return [(name, name.removeprefix("teacher.")) for name in names if name in state]


def test_every_method_of_the_registry_has_a_row_in_the_table_of_small_settings():
    for method in METHODS:
        tiny_options(method)  # raises if there is none
    assert TINY_METHODS.keys() == METHODS.keys()


def test_ten_steps_change_all_weights_and_buffers_but_a_trained_teachers(run):
    start, end = run.states[0], run.states[-1]
    still = {name for name in start if run.name == "distill" and name.startswith("teacher.")}
    still |= {name for name in start if run.name in MASKED and name.endswith("pos_embedding")}
    ineffective = set(NO_EFFECT.get(run.name, ()))  # rounding may move them or not
    assert differing(start, end) - ineffective == start.keys() - still - ineffective


def test_losses_and_spreads_are_finite_at_every_step(run):
    assert len(run.losses) == len(run.spreads) == 10
    assert all(map(math.isfinite, run.losses))
    assert all(0 < spread < 2 for spread in run.spreads)


def test_checkpoint_holds_the_state_after_the_last_step(run):
    assert same_bits(Checkpoint.load(run.path / "checkpoint.pt").state_dict, run.states[-1])


def test_the_optimiser_has_each_trainable_parameter_once(run):
    groups = run.method.param_groups()
    optimised = [id(p) for group in groups for p in group["params"]]
    assert sorted(optimised) == sorted(id(p) for p in run.method.parameters() if p.requires_grad)
    fixed = {name for name, p in run.method.named_parameters() if not p.requires_grad}
    frozen = {name.split(".")[0] for name in fixed if not name.startswith("backbone.encoder.pos_embedding")}
    teachers = {"teacher"} if run.name in (*FOLLOWED, "ijepa", "distill") else set()
    assert frozen == teachers | ({"heads"} if run.name == "deepcluster" else set())


@pytest.mark.parametrize("run", FOLLOWED, indirect=True)
def test_the_teacher_is_an_ema_of_the_network(run):
    """t <- m t + (1 - m) s at each of the ten steps, m along half a cosine to ``momentum_final`` (Eq. 8 of BYOL)."""
    options = run.method.options
    for k, (before, after) in enumerate(zip(run.states[:-1], run.states[1:], strict=True)):
        end = options.momentum if options.momentum_final is None else options.momentum_final
        m = end - (end - options.momentum) * (math.cos(math.pi * k / 10) + 1) / 2
        for teacher, student in pairs(after, run.method):
            if k == 0:
                assert torch.equal(before[teacher], before[student])
            wanted = m * before[teacher].double() + (1 - m) * after[student].double()
            torch.testing.assert_close(after[teacher].double(), wanted, rtol=3e-7, atol=1e-9)


@pytest.mark.parametrize("run", [name for name in FOLLOWED if name not in MASKED], indirect=True)
def test_batch_norms_of_the_teacher_have_their_own_statistics(run):
    """By the first step the teacher's weights are still the network's; its statistics are not an average of those."""
    first = run.states[1]
    names = [name for name in of("teacher", first) if name.endswith("backbone.bn1.running_mean")]
    assert len(names) == 1
    for name in names:
        own, networks = first[f"teacher.{name}"], first[name]
        assert own.any()
        assert not torch.allclose(own, 0.1 * networks, rtol=1e-2)  # not 0.9 t + 0.1 s
    assert run.states[-1]["teacher.backbone.bn1.num_batches_tracked"] > 0


@pytest.mark.parametrize("run", QUEUES, indirect=True)
def test_each_step_replaces_the_oldest_batch_of_a_queue_and_no_other_row(run):
    for queue in QUEUES[run.name]:
        for k, (before, after) in enumerate(zip(run.states[:-1], run.states[1:], strict=True)):
            changed = (before[f"{queue}.rows"] != after[f"{queue}.rows"]).any(dim=1).nonzero().flatten()
            start = 32 * k % 96
            assert changed.tolist() == list(range(start, start + 32))
            assert int(after[f"{queue}.added"]) == 32 * (k + 1)
            torch.testing.assert_close(after[f"{queue}.rows"].norm(dim=1), torch.ones(96))


@pytest.mark.parametrize("run", ["dino"], indirect=True)
def test_the_last_layer_of_dino_is_frozen_in_the_first_epoch(run):
    first, halfway, end = (run.states[k]["prototypes.weight"] for k in (0, 5, 10))
    assert torch.equal(first, halfway)
    assert not torch.equal(halfway, end)
    assert torch.equal(run.states[5]["teacher.prototypes.weight"], first)


@pytest.mark.parametrize("run", ["dino"], indirect=True)
def test_the_centre_of_dino_is_updated_at_every_step(run):
    assert not run.states[0]["center"].any()
    for before, after in zip(run.states[:-1], run.states[1:], strict=True):
        assert not torch.equal(before["center"], after["center"])


@pytest.mark.parametrize("run", ["swav"], indirect=True)
def test_the_prototypes_of_swav_are_frozen_for_two_steps_and_stay_normalised(run):
    states = [state["prototypes.weight"] for state in run.states]
    for state in states[1:3]:
        torch.testing.assert_close(state, states[0], rtol=0, atol=3e-7)
    assert float((states[3] - states[0]).abs().max()) > 1e-4
    for state in states:
        torch.testing.assert_close(state.norm(dim=1), torch.ones(20))


@pytest.mark.parametrize("run", ["deepcluster"], indirect=True)
def test_the_clusters_of_deepcluster_change_only_between_epochs(run):
    names = [name for name in run.states[0] if name.startswith("heads.") or name == "assignments"]
    assert len(names) == 4
    for name in names:
        first, *_, last = run.states[1:6]
        assert torch.equal(first[name], last[name])
        assert not torch.equal(last[name], run.states[6][name])


@pytest.mark.parametrize("run", ["deepcluster"], indirect=True)
def test_bank_of_deepcluster_is_filled_when_the_first_epoch_starts(run):
    for state in run.states[1:]:
        assert state["filled"].all()
        torch.testing.assert_close(state["bank"].norm(dim=2), torch.ones(2, 160))
    assert not torch.equal(run.states[1]["bank"], run.states[2]["bank"])


@pytest.mark.parametrize("run", ["distill"], indirect=True)
def test_the_teacher_of_distill_is_bit_identical_to_the_checkpoint(run, trained):
    weights = of("backbone", Checkpoint.load(trained / "checkpoint.pt").state_dict)
    for state in run.states:
        assert same_bits(of("teacher", state), weights)


@pytest.mark.parametrize("run", ["distill"], indirect=True)
def test_running_statistics_of_distill_are_moving_averages(run):
    method = run.method.train()
    mu, sd = method.mu.clone(), method.sd.clone()
    view = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    forward_and_update(method, Batch([view], torch.full((8,), -1), torch.arange(8)))
    seen = method.teacher(view)
    torch.testing.assert_close(method.mu, 0.95 * mu + 0.05 * seen.mean(dim=0))
    torch.testing.assert_close(method.sd, 0.95 * sd + 0.05 * seen.std(dim=0))


def images_and_network(run: Recorded) -> tuple[Tensor, Method]:
    """Twenty images by the validation transform, and the trained network in eval mode."""
    numbers = np.arange(20)
    np.save(run.path.parent / "twenty.npy", numbers)
    images = open_dataset(SaveReprsConfig(idx_path=str(run.path.parent / "twenty.npy")), "train").images
    assert images is not None
    run.method.load_state_dict(run.states[-1])
    return eval_view(images, IMAGENET.at(network_of(run.name)["image_size"])), run.method.eval()


def layer_by_hand(run: Recorded, layer: str) -> Tensor:
    images, method = images_and_network(run)
    with torch.no_grad():
        if run.name in ("teacher", "ijepa"):
            places = patch_tokens(method.backbone, images)
            return (places if layer == "backbone" else method.projector(places)).mean(dim=1)
        out = method.backbone(images)
        if layer != "backbone":
            out = method.projector(out)
        return method.predictor(out) if layer == "predictor" else out


def saved(run: Recorded, layer: str) -> Tensor:
    """The output of ``save-reprs`` for the checkpoint of the run."""
    images_and_network(run)
    config = SaveReprsConfig(
        pretrained=str(run.path / "checkpoint.pt"),
        layer=layer,
        idx_path=str(run.path.parent / "twenty.npy"),
        out=str(run.path.parent / "reprs" / f"{run.name}-{layer}.pt"),
        device="cpu",
    )
    (written,) = save_reprs.run(config)
    return Representations.load(written["path"]).representations


WIDTHS = {"wmse": 8, "distill": 64, "supervised": 10}
"""Of the projection, where the table's is not 16: distill's is its teacher's, supervised's the number of classes."""


@pytest.mark.parametrize("run", slow_but(QUICK, METHODS), indirect=True)
@pytest.mark.parametrize("layer", ["backbone", "projector", "predictor"])
def test_save_reprs_saves_the_output_of_each_layer_and_refuses_missing_layers(run, layer):
    if (layer == "predictor" and run.name not in PREDICTORS) or (layer == "projector" and run.name in NO_PROJECTOR):
        with pytest.raises(SSLToolError, match=f"--layer {layer}"):
            saved(run, layer)
        return
    rows = saved(run, layer)
    assert rows.shape == (20, 64 if layer == "backbone" else WIDTHS.get(run.name, 16))
    assert float(rows.std(dim=0).max()) > 1e-6
    torch.testing.assert_close(rows, layer_by_hand(run, layer), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("run", ["deepcluster"], indirect=True)
def test_a_linear_probe_does_not_change_the_backbone(run, tmp_path):
    images_and_network(run)
    config = LinclsConfig(
        pretrained=str(run.path / "checkpoint.pt"),
        idx_path=str(run.path.parent / "images.npy"),
        out=str(tmp_path / "probe"),
        epochs=1,
        device="cpu",
    )
    result = lincls.run(config)
    assert (result["method"], result["backbone_unchanged"], result["train_size"]) == ("deepcluster", True, 160)
    assert 0 < result["acc1"] <= result["acc5"] < 1


@pytest.mark.parametrize("run", slow_but(QUICK, METHODS), indirect=True)
def test_bf16_gives_nearly_the_same_first_loss_and_float32_weights(run, steps):
    half = steps(run.name, {}, precision="bf16")
    assert half.losses[0] != run.losses[0]
    assert half.losses[0] == pytest.approx(run.losses[0], rel=0.01, abs=0.03)
    assert all(map(math.isfinite, half.losses + half.spreads))
    assert {x.dtype for x in half.states[-1].values()} <= {torch.float32, torch.int64, torch.bool}


@pytest.mark.parametrize("method", slow_but(["swav", "teacher"], ["dino", "swav", "mocov3", "teacher"]))
def test_all_weights_of_a_vit_are_trained_except_its_position_embedding(steps, method):
    options = {"local_size": 8} if "local_size" in tiny_options(method) else {}
    vit = {"arch": "vit_small_depth3", "stem": "auto", "batch_size": 16, "epochs": 1, "steps_per_epoch": 2}
    found = steps(method, options, **vit)
    assert all(map(math.isfinite, found.losses))
    start, end = found.states[0], found.states[-1]
    still = start.keys() - differing(start, end)
    positions = {name for name in start if name.endswith("pos_embedding")}
    prototypes = {name for name in start if name.endswith("prototypes.weight")}  # freeze is not over
    assert positions and still - prototypes == positions


@pytest.mark.parametrize(
    "options",
    [
        {"stop_grad": False},
        {"predictor": "none"},
        {"predictor": "fixed"},
        {"symmetric": False},
        {"bn": "none"},
        {"bn": "hidden"},
        {"bn": "all"},
        {"similarity": "cross_entropy"},
    ],
    ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items()),
)
def test_ablations_of_simsiam_give_different_networks(steps, options):
    plain, other = steps("simsiam", {}), steps("simsiam", options)
    assert all(map(math.isfinite, other.losses + other.spreads))
    assert differing(of("backbone", plain.states[-1]), of("backbone", other.states[-1]))
    same_value = options in ({"stop_grad": False}, {"predictor": "fixed"})  # what they change is the gradient
    assert (plain.losses[0] == other.losses[0]) == same_value
    assert plain.losses[1] != other.losses[1]


def test_fixed_predictor_of_simsiam_keeps_its_weights(steps):
    found = steps("simsiam", {"predictor": "fixed"})
    weights = {name for name, _ in found.method.predictor.named_parameters()}
    start, end = (of("predictor", found.states[k]) for k in (0, -1))
    assert weights and not weights & differing(start, end)
    assert differing(start, end)  # running statistics still change


@pytest.mark.parametrize(
    ("method", "options"),
    [("byol", {"predictor": "none"}), ("vicreg", {"std": 0}), ("vicreg", {"cov": 0}), ("dino", {"teacher_temp": 1})],
)
def test_ablation_changes_the_first_loss_and_trains(steps, method, options):
    plain, other = steps(method, {}), steps(method, options)
    assert all(map(math.isfinite, other.losses + other.spreads))
    assert plain.losses[0] != other.losses[0]
    assert differing(of("backbone", other.states[0]), of("backbone", other.states[-1]))


def test_momentum_0_makes_the_teacher_of_byol_a_copy_of_the_network(steps):
    found = steps("byol", {"momentum": 0, "momentum_final": 0})
    assert isinstance(found.method, MomentumMethod)
    for state in found.states:
        for teacher, student in pairs(state, found.method):
            assert torch.equal(state[teacher], state[student])
    assert found.losses != steps("byol", {}).losses


def test_dino_without_centring_has_no_centre(steps):
    found, plain = steps("dino", {"centering": False}), steps("dino", {})
    assert not found.states[-1]["center"].any()
    assert plain.states[-1]["center"].any()
    assert found.losses[0] == plain.losses[0]  # the centre starts at 0
    assert found.losses[1] != plain.losses[1]


def parameters_of_teacher(found: Recorded, state: State) -> State:
    return {name: state[name] for name, _ in pairs(state, found.method)}


def test_frozen_teacher_keeps_its_weights(steps):
    found = steps("teacher", {"update": "frozen"})
    start, end = (parameters_of_teacher(found, found.states[k]) for k in (0, -1))
    assert start and not differing(start, end)
    assert len(differing(of("projector", found.states[0]), of("projector", found.states[-1]))) == 6


def test_a_copied_teacher_equals_the_student_at_the_end_of_an_epoch(steps):
    found = steps("teacher", {"update": "copy"})
    first, halfway, end = (parameters_of_teacher(found, found.states[k]) for k in (0, 1, 2))
    assert not differing(first, halfway)
    for teacher, student in pairs(found.states[1], found.method):
        assert torch.equal(end[teacher], found.states[1][student])
    assert differing(halfway, end)


def test_an_sgd_teacher_is_trained_and_the_first_step_of_the_student_is_that_with_a_frozen_teacher(steps):
    found, frozen = steps("teacher", {"update": "sgd"}), steps("teacher", {"update": "frozen"})
    start, end = (parameters_of_teacher(found, found.states[k]) for k in (0, -1))
    assert differing(start, end) == start.keys()
    assert found.losses[0] == frozen.losses[0]
    for part in ("backbone", "projector"):
        assert same_bits(of(part, found.states[1]), of(part, frozen.states[1]))
    assert found.losses[1] != frozen.losses[1]
