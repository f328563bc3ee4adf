"""Properties of a step of the methods whose targets are clusters, teacher outputs or labelled images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from methods_helpers import build, noisy_batch, shake
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods import method_class
from ssltool.methods.base import EpochImages, Method, Now, trainable_parameters
from target_helpers import study

CLUSTERED = {"prototypes": 5}
OPTIONS = {
    "swav": {**CLUSTERED, "queue_start": 0, "freeze": 0},
    "deepcluster": {**CLUSTERED, "heads": 2},
    "dino": {**CLUSTERED, "freeze": 0},
    "ibot": {**CLUSTERED, "freeze": 0},
    "dinov2": {**CLUSTERED, "freeze": 0, "centering": "ema"},
    "simdino": {"head_bn": True},  # layers this narrow have tiny outputs without it, whose direction a step reverses
    "ressl": {},
    "paws": {},
    "distill": {},
    "teacher": {},
}
MULTICROP = ("swav", "deepcluster", "dino", "simdino", "ibot", "dinov2", "paws")
HEADS = ("backbone", "projector")
FOLLOWED = {
    "dino": (*HEADS, "prototypes"),
    "ibot": (*HEADS, "prototypes"),
    "dinov2": (*HEADS, "prototypes", "patch_projector", "patch_prototypes"),
    "simdino": HEADS,
    "ressl": HEADS,
}


def make(name: str, **options) -> Method:
    return study(**options) if name == "teacher" else build(name, **(OPTIONS[name] | options))


def batch_for(name: str, seed: int = 0, sizes: tuple[int, ...] | None = None) -> Batch:
    batch = noisy_batch(sizes=sizes or ((8,) if name == "distill" else (8, 8)), seed=seed)
    if name == "paws":
        batch.support = noisy_batch(n=8, sizes=(8,), seed=seed + 50, labels=torch.arange(8) % 4)
    return batch


def images() -> EpochImages:
    """All 64, in batches of 16."""

    def batches(rows: Tensor):
        for part in rows.split(16):
            batch = noisy_batch(n=len(part), seed=int(part[0]))
            yield Batch(batch.views, batch.labels, part)

    return EpochImages(torch.arange(64), batches)


def train(model: Method, name: str, steps: int, *, same: bool = False, lr: float = 0.02) -> list[float]:
    """Losses of training steps, on the same batch or a new batch per step."""
    optimizer = torch.optim.SGD(trainable_parameters(model), lr)
    losses = []
    for step in range(steps):
        model.now = Now(0, step)
        if step == 0:
            model.start_epoch(images())
        loss = model(batch_for(name, seed=0 if same else step)).loss
        optimizer.zero_grad()
        loss.backward()
        model.before_update()
        optimizer.step()
        model.after_step()
        losses.append(loss.item())
    return losses


@pytest.fixture(params=OPTIONS)
def name(request) -> str:
    return request.param


def test_the_projection_has_one_detached_float32_row_per_image_of_the_first_view(name):
    model, batch = shake(make(name)), batch_for(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = model(batch)
    out = model(batch)
    for found in (within, out):
        assert (found.projection.dtype, found.loss.dtype) == (torch.float32, torch.float32)
        assert not found.projection.requires_grad
        assert found.loss.shape == ()
    assert len(out.projection) == 16
    moved = Batch(
        [batch.views[0], *(view.flip(0) for view in batch.views[1:])], batch.labels, batch.rows, batch.support
    )
    torch.testing.assert_close(model(moved).projection, out.projection, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(batch_for(name, seed=7)).projection, out.projection, atol=1e-3)


def test_the_gradient_reaches_all_trainable_parameters(name):
    model = make(name)
    model(batch_for(name)).loss.backward()
    assert [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(float(p.grad.norm()) > 0 for p in trainable_parameters(model.projector))


def test_under_autocast_the_loss_is_near_that_without(name):
    plain = make(name)(batch_for(name)).loss.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = make(name)(batch_for(name)).loss.item()
    assert found == pytest.approx(plain, rel=0.05, abs=0.05)
    assert found != plain


def test_training_on_one_batch_decreases_its_loss(name):
    learnt, rested = (train(make(name), name, 6, same=True, lr=lr)[-1] for lr in (0.05, 0.0))
    assert learnt < rested  # queues, centres and running means are the same in both


def test_a_run_is_deterministic_in_seed_and_batches(name):
    first, again = make(name), make(name)
    assert train(first, name, 3) == train(again, name, 3)
    state, other = first.state_dict(), again.state_dict()
    assert all(torch.equal(tensor, other[key]) for key, tensor in state.items())


def test_all_state_is_in_the_checkpoint(name):
    trained, fresh = make(name), shake(make(name))
    train(trained, name, 3)
    fresh.load_state_dict(trained.state_dict())
    fresh.now = trained.now = Now(0, 3)
    a, b = (model(batch_for(name, seed=9)) for model in (trained, fresh))
    assert a.loss.item() == b.loss.item()
    assert torch.equal(a.projection, b.projection)
    after = fresh.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in trained.state_dict().items())


def test_the_loss_does_not_depend_on_labels_of_unlabelled_images(name):
    batch, labelled = batch_for(name), batch_for(name)
    labelled.labels = torch.arange(16) % 4
    assert make(name)(batch).loss.item() == make(name)(labelled).loss.item()
    assert not method_class(name).uses_labels


def test_the_groups_have_each_trainable_parameter_once(name):
    model = make(name)
    groups = model.param_groups()
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    predictor = {id(p) for group in groups if not group["is_encoder"] for p in group["params"]}
    assert predictor == ({id(p) for p in model.predictor.parameters()} if name == "paws" else set())


@pytest.mark.parametrize("name", MULTICROP)
def test_the_loss_depends_on_small_crops(name):
    large, all_crops = batch_for(name), batch_for(name, sizes=(8, 8, 4, 4))
    wanted = make(name)(large).loss.item()
    assert make(name)(all_crops).loss.item() != pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_teacher_is_initialised_as_a_separate_copy(name):
    model = make(name)
    assert tuple(model.teacher) == FOLLOWED[name]
    for part in FOLLOWED[name]:
        theirs, ours = model.teacher[part].state_dict(), getattr(model, part).state_dict()
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[key], ours[key]) for key in ours)
        assert {x.data_ptr() for x in theirs.values()}.isdisjoint(x.data_ptr() for x in ours.values())


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_teacher_receives_no_gradient(name):
    model = make(name)
    model(batch_for(name)).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())


@pytest.mark.parametrize("name", FOLLOWED)
@pytest.mark.parametrize("step", [0, 3, 7])
def test_a_teacher_is_updated_with_the_momentum_of_the_step(name, step):
    model = make(name, momentum=0.5, momentum_final=0.9)
    shake(model.teacher)
    before = [p.clone() for p in model.teacher.parameters()]
    students = [p.detach().clone() for part in FOLLOWED[name] for p in getattr(model, part).parameters()]
    model.now = Now(step // 4, step)  # of two epochs of four steps
    model.after_step()
    m = 0.9 - 0.4 * (math.cos(math.pi * step / 8) + 1) / 2
    for found, old, new in zip(model.teacher.parameters(), before, students, strict=True):
        torch.testing.assert_close(found, m * old + (1 - m) * new)


@pytest.mark.parametrize(
    ("name", "option", "cold", "fine"),
    [
        ("swav", "temperature", 0.011, 0.0115),
        ("deepcluster", "temperature", 0.011, 0.0115),
        ("dino", "teacher_temp", 0.01, 0.04),
        ("ressl", "student_temp", 0.01, 0.04),
        ("paws", "temperature", 0.01, 0.05),
    ],
)
def test_an_overflowing_temperature_gives_a_warning(name, option, cold, fine):
    assert make(name, **{option: fine}).warnings() == []
    (warning,) = make(name, **{option: cold}).warnings()
    assert warning.startswith(f"{option}={cold} ") and f"{1 / cold:.0f}" in warning


def test_an_overflowing_warm_up_temperature_gives_a_warning():
    (warning,) = make("dino", warmup_teacher_temp=0.01, warmup_teacher_temp_epochs=1).warnings()
    assert warning.startswith("warmup_teacher_temp=0.01 ") and "100" in warning


NO_EFFECT = [
    *((name, {"local_size": 4}, {"local_crops": 0}, "local_crops=0") for name in MULTICROP),
    ("swav", {"queue_start": 3}, {"queue": 0, "queue_start": 15}, "queue=0"),
    ("dino", {"center_momentum": 0.5}, {"centering": False}, "centering=false"),
    ("ibot", {"center_momentum": 0.5}, {"centering": "sinkhorn"}, "centering=sinkhorn"),
    ("ibot", {"mask_max": 0.3}, {"mask_p": 0}, "mask_p=0"),
    ("dinov2", {"gram_start": 0.3}, {}, "gram=0"),
    ("dino", {"warmup_teacher_temp": 0.03}, {"warmup_teacher_temp_epochs": 0}, "warmup_teacher_temp_epochs=0"),
    *(("teacher", {"momentum": 0.5}, {"update": kind}, f"update={kind}") for kind in ("sgd", "frozen", "copy")),
    ("teacher", {"momentum_final": None}, {"update": "copy"}, "update=copy"),
]


@pytest.mark.parametrize(("name", "ineffective", "cause", "text"), NO_EFFECT)
def test_an_option_without_effect_is_refused(name, ineffective, cause, text):
    ((option, value),) = ineffective.items()
    make(name, **cause)
    with pytest.raises(SSLToolError) as caught:
        make(name, **(cause | ineffective))
    assert str(caught.value).startswith(f"--set {option}={value} ") and text in str(caught.value)


@pytest.mark.parametrize("name", ["ressl", "paws", "distill", "teacher"])
def test_methods_without_prototypes_do_not_warn_about_the_loss(name):
    model = make(name)
    model.now = Now(1, 4)
    assert [model.diagnose(math.log(k)) for k in (2, 6, 32, 128)] == [None] * 4
