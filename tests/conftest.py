"""What the tests share: small networks, small folders of images, and the command line run in-process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fork_server
import hypothesis
import numpy as np
import pytest
import torch
from bundled_reads import read_once
from PIL import Image

from helpers import Ran
from ssltool import cli
from ssltool.data.layouts import fashion_mnist
from ssltool.registry import REGISTRIES, _loaded
from ssltool.reprs.representations import Representations
from ssltool.training import precision

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
os.fsync = lambda _: None  # protects files from a power failure, at the cost of 10 ms for each

# The same examples in every run, and no limit of time, so that neither chance nor a busy machine fails a test.
hypothesis.settings.register_profile(
    "ssltool",
    derandomize=True,
    max_examples=50,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("ssltool")


@pytest.fixture(scope="session", autouse=True)
def bundled_images_are_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fashion_mnist, "read_idx", read_once())
        yield


@pytest.fixture(scope="session", autouse=True)
def no_processor_multiplies_bf16() -> Iterator[None]:
    """The arithmetic of ``--precision auto`` depends on the processor, and the tests must not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "_has_flag", lambda names: False)
        yield


@pytest.fixture
def ssltool(monkeypatch, capsys):
    """Runs the command line as ``main`` does: ``ssltool("knn", "a.pt", "b.pt") -> Ran``."""

    def run(*args: object) -> Ran:
        monkeypatch.setattr("sys.argv", ["ssltool", *map(str, args)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def registries():
    """Lets a test add to any registry; afterwards they are as they were."""
    before = {id(registry): (dict(registry._entries), dict(registry._plugins)) for registry in REGISTRIES}
    loaded = dict(_loaded)
    yield
    _loaded.clear()  # the next test may write another plug-in to the same path
    _loaded.update(loaded)
    for registry in REGISTRIES:
        built_in = {name: entry for name, entry in registry._entries.items() if registry.plugin(name) is None}
        registry._entries, registry._plugins = before.get(id(registry), (built_in, {}))


@pytest.fixture
def write_images():
    """Writes random RGB images: ``write_images(folder, 3, size=(20, 16)) -> paths``."""

    def write(folder: Path, count: int, *, size: tuple[int, int] = (20, 16), seed: int = 0) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([seed, *folder.name.encode()])
        paths = []
        for i in range(count):
            path = folder / f"{i:03d}.png"
            Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)
            paths.append(path)
        return paths

    return write


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Path]:
    """The socket of a process that has imported ``ssltool`` and runs commands in forks; see ``fork_server``."""
    path = tmp_path_factory.mktemp("server") / "socket"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, fork_server.__file__, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield path
        process.kill()


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The run folder of a tiny SimSiam run of two epochs of three steps on the bundled images."""
    from ssltool.config import PretrainConfig
    from ssltool.stages.pretrain import run as pretrain

    out = tmp_path_factory.mktemp("trained") / "run"
    config = PretrainConfig(
        arch="resnet18_w8",
        stem="small-stride2",
        image_size=16,
        dim=16,
        pred_dim=8,
        epochs=2,
        steps_per_epoch=3,
        batch_size=32,
        device="cpu",
        out=str(out),
    )
    return pretrain(config)


@pytest.fixture(scope="session")
def shades(tmp_path_factory) -> Path:
    """An ImageNet-style folder of dark, middling and light noise: ``train`` of 16 images each, ``val`` of 8."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("shades")
    for split, count in (("train", 16), ("val", 8)):
        for name, low in (("dark", 0), ("light", 200), ("middling", 100)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(low, low + 56, (16, 16, 3), np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.fixture
def write_reprs(tmp_path):
    """Saves representations: ``write_reprs("a.pt", rows, targets) -> path``; unlabelled without targets, and with more
    entries of the meta as keywords."""

    def write(name: str, rows: torch.Tensor, targets: Any = None, index: Any = None, **meta: Any) -> Path:
        n = len(rows)
        labels = torch.full((n,), -1) if targets is None else torch.as_tensor(targets)
        numbers = torch.arange(n) if index is None else torch.as_tensor(index)
        Representations(rows, labels, numbers, {"dataset": "made-up"} | meta).save(tmp_path / name)
        return tmp_path / name

    return write


TINY_SETTINGS = {"arch": "resnet18_w8", "stem": "small-stride2", "image_size": 16, "dim": 16, "pred_dim": 8}


@pytest.fixture
def tiny(tmp_path):
    """Settings of two epochs of three steps into ``tmp_path/run``: ``tiny(epochs=4) -> PretrainConfig``."""
    from ssltool.config import PretrainConfig

    def make(out: str | Path = "run", **changes: Any) -> PretrainConfig:
        schedule = {"epochs": 2, "steps_per_epoch": 3, "batch_size": 16, "device": "cpu", "out": str(tmp_path / out)}
        look = {"monitor_size": 64} if changes.get("monitor_every", 1) else {}
        return PretrainConfig(**(TINY_SETTINGS | schedule | look | changes))

    return make


@pytest.fixture
def interrupt_at(monkeypatch):
    """Sends this process a SIGTERM in the step that follows ``done`` steps of a run: ``interrupt_at(done)``.

    The run stops at the end of that step. A run that goes on has more steps behind it and is left alone.
    """
    from ssltool.stages.pretrain.pretrain import Pretraining

    step = Pretraining.step

    def arm(done: int) -> None:
        def stepping(run: Any, batch: Any) -> Any:
            if run.state.step == done:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(run, batch)

        monkeypatch.setattr(Pretraining, "step", stepping)

    return arm
