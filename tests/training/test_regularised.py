"""``--regularise``: which rows a regulariser sees, what is minimised, and what is recorded and refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import records
from ssltool.config import PretrainConfig
from ssltool.errors import SSLToolError, UsageError
from ssltool.methods import METHODS
from ssltool.methods.base import Output
from ssltool.methods.regularisers import REGULARISERS, Term
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.pretrain.dry_run import _noise as noise
from ssltool.stages.pretrain.prepare import prepare
from ssltool.training.regularised import Regularised, weights_of
from tiny_methods import MASKED, NO_PROJECTOR, tiny_config

CPU = torch.device("cpu")
EACH = tuple(f"{name}=0.1" for name in REGULARISERS)


@pytest.fixture
def config(tmp_path, trained):
    """``config(method, **settings)``: the settings of a tiny run of one step."""

    def make(method: str = "vicreg", out: str = "run", **settings: Any) -> PretrainConfig:
        return tiny_config(method, tmp_path / out, trained, **({"epochs": 1, "steps_per_epoch": 1} | settings))

    return make


def seen_by(config: PretrainConfig) -> tuple[Regularised, Any, Tensor]:
    """The method of ``config`` in eval mode, a batch, and the rows that a regulariser sees."""
    setup = prepare(config)
    model = setup.regularised(setup.build_method()).eval()
    assert isinstance(model, Regularised)
    batch = noise([recipe.size or 16 for recipe in model.method.view_recipes(setup.recipe)], 32, CPU)
    if setup.support is not None:
        batch.support = noise([16], setup.support.batch_size, CPU)
    seen: list[Tensor] = []
    model._functions = [lambda rows: seen.append(rows) or rows.sum()]
    model(batch)
    (rows,) = seen
    return model, batch, rows


@pytest.mark.parametrize("method", METHODS)
def test_a_regulariser_sees_the_students_rows_of_the_first_view_with_their_gradient(config, method):
    model, batch, rows = seen_by(config(method, regularise=("vne=1",)))
    assert rows.requires_grad
    torch.testing.assert_close(rows, model.method.embed(batch.views[0], "backbone"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["simsiam", "dino", "teacher", "vicregl", "ibot", "dinov2", "paws"])
def test_a_regulariser_at_the_projector_sees_its_output(config, method):
    options = {"mask_p": 0} if method in ("ibot", "dinov2") else {}  # else it sees that of the masked view
    model, batch, rows = seen_by(config(method, regularise=("vne=1@projector",), options=options))
    assert rows.requires_grad
    torch.testing.assert_close(rows, model.method.embed(batch.views[0], "projector"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", NO_PROJECTOR)
def test_a_method_without_a_projector_has_no_rows_there(config, method):
    with pytest.raises(UsageError, match=f"{method} has no projector"):
        seen_by(config(method, regularise=("vne=1@projector",)))


@pytest.mark.parametrize("method", ["teacher", "vicregl", *MASKED])
def test_two_terms_of_a_method_of_tokens_are_those_of_its_representations(config, method):
    made = config(method, regularise=("vne=1", "w2=0.5", "orthogonality=1e-6"))
    setup = prepare(made)
    model = setup.regularised(setup.build_method()).eval()
    batch = noise([recipe.size or 16 for recipe in model.method.view_recipes(setup.recipe)], 32, CPU)
    rows = model.method.embed(batch.views[0], "backbone")
    wanted = [-REGULARISERS.load("vne")(rows), 0.5 * REGULARISERS.load("w2")(rows)]
    torch.testing.assert_close(torch.stack(list(model(batch).terms[:2])), torch.stack(wanted), rtol=1e-4, atol=1e-5)
    assert math.isfinite(records(pretrain(made))[0]["backbone_vne"])


def test_the_gradient_is_that_of_the_loss_and_the_weighted_terms(config):
    """The terms are recomputed outside of the wrapper; in eval mode a second forward pass gives the same rows."""
    setup = prepare(config(regularise=EACH))
    method = setup.build_method().eval()
    model = setup.regularised(method)
    batch = noise([16, 16], 32, CPU)
    Output(*model(batch)).objective.backward()
    found = {name: p.grad for name, p in method.named_parameters()}
    method.zero_grad()
    method(batch).loss.backward()
    rows = method.backbone(batch.views[0])
    for name, entry in REGULARISERS.items():
        of = rows if entry.of == "rows" else weights_of(method.backbone)
        (Term(name, 0.1, "backbone").factor * REGULARISERS.load(name)(of)).backward(retain_graph=True)
    largest = max(float(gradient.abs().max()) for gradient in found.values())
    for name, p in method.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-6 * largest)


def test_the_recorded_loss_is_that_of_the_method_and_the_values_are_those_of_the_regularisers(config):
    plain = records(pretrain(config(out="plain", steps_per_epoch=2, epochs=1)))[0]
    one = records(pretrain(config(out="one", steps_per_epoch=1, regularise=EACH)))[0]
    alone = records(pretrain(config(out="alone", steps_per_epoch=1)))[0]
    assert one["loss"] == alone["loss"] != plain["loss"]
    assert {f"backbone_{name}" for name in REGULARISERS} == set(one) - set(alone)
    assert 0 <= one["backbone_vne"] <= math.log(32)
    assert 0 <= one["backbone_w2"] <= math.sqrt(2)
    assert -math.log(2) <= one["backbone_koleo"] <= -math.log(1e-8)


def test_a_larger_weight_gives_rows_of_more_entropy(config):
    settings = {"steps_per_epoch": 10, "optimizer": "adam", "lr": 0.01, "monitor_every": 0}
    weak, strong = (
        records(pretrain(config("simsiam", weight, regularise=(f"vne={weight}",), **settings)))[-1]["backbone_vne"]
        for weight in ("1e-6", "1")
    )
    assert strong > weak + 0.1


def test_layers_that_a_method_lacks_are_refused(config):
    setup = prepare(config("supervised", regularise=("vne=1@projector",)))
    assert isinstance(setup.regularised(setup.build_method()), Regularised)
    method = setup.build_method()
    method.projector = torch.nn.Identity()
    with pytest.raises(UsageError, match="supervised has no projector; it has backbone"):
        setup.regularised(method)


def test_micro_batches_are_refused_for_rows_and_exact_for_weights(config):
    with pytest.raises(UsageError, match="--accumulate 2 would change --regularise vne"):
        pretrain(config("dino", accumulate=2, regularise=("vne=1",)))
    found = [
        records(pretrain(config("dino", str(count), accumulate=count, regularise=("orthogonality=1e-3",))))[0]
        for count in (1, 2)
    ]
    assert found[0]["backbone_orthogonality"] == pytest.approx(found[1]["backbone_orthogonality"], rel=1e-6)


def test_a_malformed_regulariser_is_refused_before_the_images_are_read(ssltool, tmp_path):
    ran = ssltool("pretrain", tmp_path / "none", "--regularise", "vnee=1")
    assert ran.code == 2 and "vnee" in ran.err and not list(Path(tmp_path).iterdir())


def test_another_weight_is_refused_when_a_run_is_resumed(config):
    pretrain(config(epochs=2, regularise=("vne=1",)))
    with pytest.raises(SSLToolError, match=r"--regularise was .*vne=1.*, is now .*vne=2"):
        pretrain(config(epochs=2, regularise=("vne=2",), resume="auto"))
