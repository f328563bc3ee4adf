"""Compiled methods: nothing is compiled again while a schedule goes on, and the losses are those without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers import slow_but
from ssltool.errors import UsageError
from ssltool.methods import METHODS
from ssltool.methods.regularisers import REGULARISERS
from ssltool.models import ARCHITECTURES, Architecture
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.pretrain.dry_run import plan
from ssltool.stages.pretrain.pretrain import Pretraining
from tiny_methods import MASKED, tiny_config

MOVING: dict[str, dict[str, Any]] = {
    "dino": {"warmup_teacher_temp": 0.02, "warmup_teacher_temp_epochs": 2},
    "dinov2": {"gram": 1.0, "gram_start": 0.5},
    "swav": {"queue": 32, "queue_start": 1, "freeze": 1},
}
"""Options that change what a step does: a temperature, a queue that is used later on."""

REGULARISED = "vicreg with regularisers"
VIEWS: dict[str, dict[str, Any]] = {"ijepa": {"image_size": 32}}
"""Views of 8 x 8 patches: on a smaller grid a block may be a single patch, which the compiler takes for a constant."""

NEEDS_PATCHES = ("teacher", "vicregl", *MASKED)
"""Methods that need more of a network than one vector for an image."""


def two_layers() -> nn.Module:
    """A network of which a compiler sees little."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 16),
    )


def losses(config: Any, watch: Any = None) -> list[float]:
    """The loss of each step of a run."""
    found, step = [], Pretraining.step

    def stepping(run: Pretraining, batch: Any) -> Any:
        values = step(run, batch)
        found.append(values[0].item())
        if watch is not None:
            watch(run)
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pretraining, "step", stepping)
        pretrain(config)
    return found


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # by torch, where a graph ends
@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(
    "method",
    slow_but(("simsiam", "moco", "swav", "dino"), (*METHODS, REGULARISED)),
)
def test_no_step_after_the_first_is_compiled_again(tmp_path: Path, trained, monkeypatch, method):
    """Over two steps of each of three epochs, with the monitor between them, whose measurements are not compiled."""
    if "two_layers" not in ARCHITECTURES:
        ARCHITECTURES.add("two_layers", Architecture(two_layers))
    settings: dict[str, Any] = {"epochs": 3, "steps_per_epoch": 2, "lr_schedule": "step", "warmup_epochs": 1}
    if method == REGULARISED:
        method = "vicreg"
        settings["regularise"] = tuple(f"{name}=0.1" for name in REGULARISERS)
    if method not in NEEDS_PATCHES:
        settings |= {"arch": "two_layers", "stem": "auto"}
    settings |= VIEWS.get(method, {})
    options = MOVING.get(method, {})
    plain = losses(tiny_config(method, tmp_path / "plain", trained, options=options, **settings))

    compiled, frames = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda model, mode: compiled(model, backend="eager"))
    torch._dynamo.reset()

    def watch(run: Pretraining) -> None:
        frames.append(torch._dynamo.utils.counters["frames"]["ok"])
        torch._dynamo.config.error_on_recompile = True

    try:
        config = tiny_config(method, tmp_path / "compiled", trained, options=options, compile=True, **settings)
        found = losses(config, watch)
    finally:
        torch._dynamo.config.error_on_recompile = False
        torch._dynamo.reset()
    assert found == pytest.approx(plain, rel=1e-4, abs=1e-5)
    assert frames[0] > 0
    assert len(set(frames)) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("dry_run", [False, True])
def test_cuda_graphs_are_refused_on_a_cpu_and_no_run_folder_is_made(tmp_path: Path, trained, dry_run):
    config = tiny_config("simsiam", tmp_path / "run", trained, compile=True, cuda_graphs=True)
    with pytest.raises(UsageError, match="needs a CUDA device"):
        plan(config) if dry_run else pretrain(config)
    assert not (tmp_path / "run").exists()


def test_cuda_graphs_without_compile_are_refused(tmp_path: Path, trained):
    with pytest.raises(UsageError, match="without --compile"):
        pretrain(tiny_config("simsiam", tmp_path / "run", trained, cuda_graphs=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # by torch, where a graph ends
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", ["simsiam", "moco", "byol"])
def test_losses_of_cuda_graphs_are_those_without(tmp_path: Path, trained, method):
    """Also with micro-batches, whose results must outlive the next one of the step."""
    settings: dict[str, Any] = {"device": "cuda", "epochs": 3, "steps_per_epoch": 2, "accumulate": 2}
    plain = losses(tiny_config(method, tmp_path / "plain", trained, **settings))
    torch._dynamo.reset()
    found = losses(tiny_config(method, tmp_path / "graphs", trained, **settings, compile=True, cuda_graphs=True))
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0
    assert found == pytest.approx(plain, rel=1e-2, abs=1e-3)
