"""The public Python API: lazy, quiet, typed, and as its page says."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import ssltool as package
from helpers import same_run
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.errors import SSLToolError, UsageError

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
TINY = {
    **{"arch": "resnet18_w8", "stem": "small-stride2", "image_size": 16, "dim": 16, "pred_dim": 8, "epochs": 1},
    **{"steps_per_epoch": 2, "batch_size": 16, "device": "cpu", "monitor_size": 32},
}


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, ssltool; [getattr(ssltool, n) for n in ('pretrain', 'measure', 'SSLToolError', 'KnnConfig')]; "
    code += "print([m for m in ('torch', 'numpy', 'pandas', 'click') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", package.__all__)
def test_every_public_name_exists_is_documented_and_listed_on_the_page(name):
    assert getattr(package, name).__doc__
    assert f"`{name}`" in PAGE.read_text(encoding="utf-8")
    assert name in dir(package)


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_like_this"):
        package.nothing_like_this  # noqa: B018


def test_the_examples_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 7
    exec("\n".join(blocks), {})
    captured = capsys.readouterr()
    assert captured.err == ""  # quiet unless asked
    assert "missing.pt" in captured.out


def test_verbose_prints_on_stderr_only(tmp_path, capsys):
    package.pretrain(**TINY, out=tmp_path / "run", verbose=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "epoch 1/1" in captured.err


def test_keywords_and_a_settings_object_give_the_same_run(tmp_path):
    of_a_table = {name: np.int64(value) if isinstance(value, int) else value for name, value in TINY.items()}
    first = package.pretrain(**of_a_table, out=tmp_path / "a")
    second = package.pretrain(package.PretrainConfig(**TINY, out=str(tmp_path / "b")))
    assert same_run(first.folder, second.folder)
    assert first.checkpoint == tmp_path / "a" / "checkpoint.pt"
    assert first.collapsed is False


def test_options_may_be_a_mapping(tmp_path):
    small = {name: value for name, value in TINY.items() if name not in ("dim", "pred_dim")}
    run = package.pretrain(**small, method="vicreg", options={"dim": 12, "hidden": 20}, out=tmp_path / "run")
    assert Checkpoint.load(run.checkpoint).config["method_options"]["dim"] == 12


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: package.pretrain(lr=0.0), "--lr"),
        (lambda: package.pretrain(learning_rat=1.0), "learning_rat"),
        (lambda: package.pretrain(package.PretrainConfig(), lr=0.1), "lr"),
        (lambda: package.knn(package.PretrainConfig()), "KnnConfig"),
    ],
)
def test_settings_that_are_wrong_by_themselves_are_usage_errors(call, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=re.escape(named)):
        call()
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_a_thread_finishes_and_leaves_signals_alone(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(package.pretrain(**TINY, out=tmp_path / "thread")))
    thread.start()
    thread.join()
    (run,) = found
    assert signal.getsignal(signal.SIGINT) is before
    assert same_run(run.folder, package.pretrain(**TINY, out=tmp_path / "main").folder)


def test_a_run_that_stop_on_ends_says_so(tmp_path):
    run = package.pretrain(**TINY, options={"stop_grad": "false"}, lr=5.0, stop_on="partial", out=tmp_path / "run")
    assert run.collapsed is True
    assert run.checkpoint.exists()


def test_read_run_has_a_row_per_epoch_and_the_settings(trained):
    table = package.read_run(trained)
    assert isinstance(table, pd.DataFrame)
    assert table["epoch"].tolist() == [0, 1]
    assert table.attrs["settings"]["arch"] == "resnet18_w8"


def test_read_run_refuses_a_folder_without_a_run(tmp_path):
    with pytest.raises(SSLToolError, match=re.escape(str(tmp_path))):
        package.read_run(tmp_path)


def test_load_backbone_gives_the_rows_that_save_reprs_saves(trained, shades, tmp_path):
    (file,) = package.save_reprs(pretrained=trained / "checkpoint.pt", data=shades, split="val", out=tmp_path / "v.pt")
    saved = package.load_representations(file.path)
    backbone = package.load_backbone(trained / "checkpoint.pt")
    paths = sorted((shades / "val").rglob("*.png"))
    with torch.inference_mode():
        rows = backbone(torch.stack([backbone.transform(Image.open(path)) for path in paths]))
    assert (backbone.dim, backbone.image_size, backbone.training) == (64, 16, False)
    assert rows.shape == saved.representations.shape == (file.rows, file.width)
    order = [
        next(i for i in range(len(rows)) if torch.allclose(rows[i], row, atol=1e-5)) for row in saved.representations
    ]
    assert sorted(order) == list(range(len(rows)))


def test_the_transform_resizes_and_crops_any_image(trained):
    backbone = package.load_backbone(trained / "checkpoint.pt")
    x = backbone.transform(Image.new("L", (50, 31), 128))
    assert (x.shape, x.dtype) == ((3, 16, 16), torch.float32)
    torch.testing.assert_close(x[0].mean(), torch.tensor((128 / 255 - 0.485) / 0.229), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_measure_takes_tensors_and_arrays_and_finds_a_line(kind):
    rng = np.random.default_rng(0)
    line = rng.normal(size=(500, 1)) * rng.normal(size=(1, 16)) + 1e-9 * rng.normal(size=(500, 16))
    found = package.measure(kind(line))
    assert (found.n, found.d, found.verdict.state) == (500, 16, "complete")
    assert found.metrics["effective_rank"] == pytest.approx(1.0, abs=1e-3)
    assert found.singular_values.shape == (16,)
    spread = package.measure(kind(rng.normal(size=(2000, 16))))
    assert spread.verdict.state == "healthy"


def test_measure_takes_views():
    x = torch.randn(40, 3, 8, generator=torch.Generator().manual_seed(0))
    assert set(package.measure(x, "all").metrics) > {"lidar", "alignment"}


@pytest.mark.parametrize("x", [torch.zeros(3, 2, dtype=torch.int64), torch.zeros(1, 4), torch.full((5, 2), torch.nan)])
def test_measure_refuses_what_has_no_spectrum(x):
    with pytest.raises(SSLToolError):
        package.measure(x)
