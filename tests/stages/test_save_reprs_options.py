"""What save-reprs can take out of a network beside the backbone's row an image, in which numbers and files."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import usage_message
from ssltool.checkpoints.build import build_method
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.config import DataSettings
from ssltool.data.images import open_dataset
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET
from ssltool.reprs.representations import Representations

N = 6


@pytest.fixture
def save(ssltool, trained, tmp_path):
    """Runs save-reprs on the first val images of the trained network: ``save("-o", path) -> Ran``."""
    np.save(tmp_path / "first.npy", np.arange(N))

    def run(*flags):
        fixed = ["--pretrained", trained / "checkpoint.pt", "--device", "cpu", "--idx_path", tmp_path / "first.npy"]
        return ssltool("save-reprs", *fixed, "--split", "val", *flags)

    return run


@pytest.fixture
def vit(trained, tmp_path):
    """Flags that name a ViT of random weights, as a run would have saved it."""
    saved = Checkpoint.load(trained / "checkpoint.pt")
    saved.config |= {"arch": "vit_w256_depth6", "stem": "auto"}
    saved.arch = "vit_w256_depth6"
    saved.state_dict = build_method(saved.run).state_dict()
    saved.save(tmp_path / "vit.pt")
    return ["--pretrained", tmp_path / "vit.pt"]


def network(path) -> torch.nn.Module:
    checkpoint = Checkpoint.load(path)
    model = build_method(checkpoint.run)
    model.load_state_dict(checkpoint.state_dict)
    return model.eval()


def val_images() -> torch.Tensor:
    images = open_dataset(DataSettings(), "val").select(np.arange(N))
    (batch,) = Loader(images, IMAGENET.at(16), torch.device("cpu")).evaluate(N)
    return batch.views[0]


def test_a_modules_output_is_saved_under_its_name(save, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = save("--layer", "backbone.layer3", "--json")
    (written,) = ran.json["files"]
    assert written["path"] == "data/resnet18_w8_exp0000_backbone.layer3/bundled/val_reprs_e0.pt"
    assert (written["n"], written["d"], written["layer"]) == (N, 32, "backbone.layer3")
    found = Representations.load(written["path"])
    backbone = network(trained / "checkpoint.pt").backbone
    with torch.no_grad():
        x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(val_images()))))
        wanted = backbone.layer3(backbone.layer2(backbone.layer1(x))).mean(dim=(2, 3))
    torch.testing.assert_close(found.representations, wanted, rtol=1e-4, atol=1e-5)
    assert (found.meta["layer"], found.meta["directions"]) == ("backbone.layer3", None)


def test_an_unknown_layer_is_an_error_of_one_line_with_suggestions(save, tmp_path):
    ran = save("--layer", "backbone.layr3", "-o", tmp_path / "out" / "r.pt")
    assert (ran.code, ran.out) == (1, "")
    assert re.search(r"layer .*backbone\.layr3.*backbone\.layer3", ran.err)
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_pool_none_saves_a_row_per_position(save, trained, tmp_path, ssltool):
    ran = save("--layer", "backbone.layer1", "--pool", "none", "-o", tmp_path / "r.pt", "--json")
    assert (ran.json["files"][0]["n"], ran.json["files"][0]["d"]) == (N * 64, 8)
    found = Representations.stored(tmp_path / "r.pt")
    assert found.representations.shape == (N * 64, 8)
    assert found.index.tolist() == np.repeat(np.arange(N), 64).tolist()
    labels = open_dataset(DataSettings(), "val").labels[:N]
    assert found.targets.tolist() == np.repeat(labels, 64).tolist()
    assert (found.meta["places"], found.meta["pool"]) == (64, "none")
    backbone = network(trained / "checkpoint.pt").backbone
    with torch.no_grad():
        x = backbone.layer1(backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(val_images())))))
    torch.testing.assert_close(found.representations.view(N, 8, 8, 8), x.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


def test_collapse_measures_rows_per_position_and_knn_refuses_them(save, ssltool, tmp_path):
    path = tmp_path / "r.pt"
    assert save("--layer", "backbone.layer1", "--pool", "none", "-o", path).code == 0
    assert ssltool("collapse", path, "--json").json["files"][0]["n"] == N * 64
    ran = ssltool("knn", path, path)
    assert ran.code == 1
    assert "64 positions of each image" in ran.err
    np.save(tmp_path / "first.npy", np.arange(N, 2 * N))
    assert save("--layer", "backbone.layer1", "--pool", "none", "-o", tmp_path / "s.pt").code == 0
    merged = ssltool("collapse", "--merge", path, tmp_path / "s.pt", "--json").json["files"][0]
    assert merged["n"] == 2 * N * 64
    assert not any("in more than one place" in note for note in merged["notes"])


def test_a_single_position_is_an_ordinary_row(save, ssltool, tmp_path):
    for name, flags in {"kept": ["--pool", "none"], "plain": []}.items():
        assert save(*flags, "-o", tmp_path / f"{name}.pt").code == 0
    kept, plain = (Representations.load(tmp_path / f"{name}.pt") for name in ("kept", "plain"))
    assert kept.meta["places"] is None  # at 16 pixels the last map is one pixel
    torch.testing.assert_close(kept.representations, plain.representations)


@pytest.mark.parametrize(("tokens", "rows"), [("cls", N), ("mean", N), ("patch", 16 * N)])
def test_tokens_of_a_vit_are_chosen(save, vit, tmp_path, tokens, rows):
    assert save(*vit, "--tokens", tokens, "-o", tmp_path / "r.pt").code == 0
    found = Representations.stored(tmp_path / "r.pt")
    with torch.no_grad():
        every = network(vit[1]).backbone.tokens(val_images())
    wanted = {"cls": every[:, 0], "mean": every[:, 1:].mean(dim=1), "patch": every[:, 1:].flatten(0, 1)}[tokens]
    assert len(found) == rows
    torch.testing.assert_close(found.representations, wanted, rtol=1e-4, atol=1e-5)
    assert (found.meta["tokens"], found.meta["places"]) == (tokens, 16 if tokens == "patch" else None)


def test_the_default_token_is_the_class_token(save, vit, tmp_path):
    for name, flags in {"none": [], "cls": ["--tokens", "cls"]}.items():
        assert save(*vit, *flags, "-o", tmp_path / f"{name}.pt").code == 0
    none, cls = (Representations.load(tmp_path / f"{name}.pt").representations for name in ("none", "cls"))
    torch.testing.assert_close(none, cls)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--tokens", "registers"], "--tokens registers.*--layer backbone .*1 patch"),
        (["--layer", "projector", "--tokens", "mean"], "--tokens mean .*--layer projector"),
        (["--layer", "projector", "--pool", "none"], "--pool none .*--layer projector"),
    ],
)
def test_settings_without_effect_for_the_network_are_refused(save, tmp_path, flags, line):
    ran = save(*flags, "-o", tmp_path / "out" / "r")
    assert (ran.code, ran.out) == (1, "")
    assert re.match(f"error: {line}", ran.err)
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_precision_bf16_is_close_to_float32_and_recorded(save, tmp_path):
    for precision in ("fp32", "bf16"):
        assert save("--precision", precision, "-o", tmp_path / f"{precision}.pt").code == 0
    full, half = (Representations.load(tmp_path / f"{precision}.pt") for precision in ("fp32", "bf16"))
    assert half.representations.dtype == torch.float32
    assert (full.meta["precision"], half.meta["precision"]) == ("fp32", "bf16")
    apart = (half.representations - full.representations).norm() / full.representations.norm()
    assert 1e-5 < float(apart) < 0.05


def test_dtype_bf16_rounds_the_rows_and_later_stages_read_them(save, ssltool, tmp_path):
    for dtype in ("fp32", "bf16"):
        assert save("--dtype", dtype, "-o", tmp_path / f"{dtype}.pt").code == 0
    full, half = (Representations.stored(tmp_path / f"{dtype}.pt").representations for dtype in ("fp32", "bf16"))
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, full.to(torch.bfloat16))
    assert Representations.load(tmp_path / "bf16.pt").representations.dtype == torch.float32
    for command in (["collapse", tmp_path / "bf16.pt"], ["knn", tmp_path / "bf16.pt", tmp_path / "bf16.pt", "-k", 1]):
        assert ssltool(*command).code == 0


@pytest.mark.parametrize(
    ("flags", "folder"),
    [
        (["--precision", "bf16"], "bf16"),
        (["--dtype", "bf16"], "in_bf16"),
        (["--layer", "backbone.layer1", "--pool", "none"], "backbone.layer1_places"),
    ],
)
def test_the_default_name_has_the_settings_that_differ_from_their_defaults(save, tmp_path, monkeypatch, flags, folder):
    monkeypatch.chdir(tmp_path)
    assert save(*flags).code == 0
    assert (tmp_path / f"data/resnet18_w8_exp0000_{folder}/bundled/val_reprs_e0.pt").is_file()


@pytest.mark.parametrize("flags", [[], ["--views", 2]])
def test_npy_and_parquet_files_have_the_rows_of_the_pt_file(save, tmp_path, flags):
    for kind in ("pt", "npy", "parquet"):
        assert save(*flags, "--format", kind, "-o", tmp_path / f"r.{kind}").code == 0
    own = Representations.stored(tmp_path / "r.pt")
    assert np.array_equal(np.load(tmp_path / "r.npy"), own.representations.numpy())
    assert np.array_equal(np.load(tmp_path / "r_targets.npy"), own.targets.numpy())
    assert np.array_equal(np.load(tmp_path / "r_index.npy"), own.index.numpy())
    assert json.loads((tmp_path / "r.json").read_text())["meta"]["checkpoint_hash"] == own.meta["checkpoint_hash"]
    table = pd.read_parquet(tmp_path / "r.parquet")
    rows = np.stack(table["representation"].to_list()).reshape(own.representations.shape)
    assert np.array_equal(rows, own.representations.numpy())


NPY_ENDS = (".npy", "_targets.npy", "_index.npy", "_digests.npy", ".json")


@pytest.mark.parametrize(
    ("flags", "files"),
    [
        (["--format", "npy", "-o", "new/feats"], {f"feats{end}" for end in NPY_ENDS}),
        (["--format", "npy", "-o", "new/v.2"], {f"v.2{end}" for end in NPY_ENDS}),
        (["--format", "parquet", "-o", "new/feats.parquet"], {"feats.parquet"}),
        (["--format", "parquet", "-o", "there"], {"val_reprs_e0.parquet"}),
        (["-o", "new/feats"], {"feats"}),
    ],
)
def test_out_names_the_files_of_each_format(save, tmp_path, monkeypatch, flags, files):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    ran = save(*flags, "--json")
    path = tmp_path / ran.json["files"][0]["path"]
    assert path.is_file()
    assert {other.name for other in path.parent.iterdir()} == files


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--views", 2, "--pool", "none"], "--views"),
        (["--views", 2, "--tokens", "patch"], "--views"),
        (["--views", 2, "--tokens", "registers"], "--views"),
        (["--tokens", "patch", "--pool", "none"], "--pool"),
        (["--sample-patches", 2], "--sample-patches"),
        (["--tokens", "mean", "--sample-patches", 2], "--sample-patches"),
        (["--format", "npy", "--dtype", "bf16"], "--format npy"),
    ],
)
def test_conflicting_settings_are_a_usage_error(save, tmp_path, flags, named):
    assert named in usage_message(save(*flags, "-o", tmp_path / "out" / "r"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "out"), [("npy", "r.pt"), ("pt", "r.npy"), ("parquet", "r.npy"), ("pt", "r.parquet")])
def test_out_and_format_must_agree(save, tmp_path, kind, out):
    ran = save("--format", kind, "-o", tmp_path / out)
    assert re.search(rf"--out .*--format {kind}\b", usage_message(ran))
    assert not list(tmp_path.glob("r*"))


def test_both_splits_in_another_format_need_a_folder(ssltool, trained, tmp_path):
    flags = ["--pretrained", trained / "checkpoint.pt", "--device", "cpu", "--split", "both", "--format", "npy"]
    ran = ssltool("save-reprs", *flags, "-o", tmp_path / "r.npy")
    assert "--split both" in usage_message(ran)
