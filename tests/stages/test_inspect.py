"""What files are, said of files whose contents the tests know."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from export_helpers import described, export

from checkpoint_helpers import PROGRAMS, bare, dino, dino_arguments, linear, vit
from fuzz.damage import deep
from ssltool.checkpoints.probe import Probe
from ssltool.config import InspectConfig
from ssltool.diagnosis.spectrum_file import Spectrum
from ssltool.errors import SSLToolError, UsageError
from ssltool.reprs.neighbours.file import Neighbours
from ssltool.stages.inspect import run


def look(path: object, **settings) -> dict:
    (about,) = run(InspectConfig((str(path),), **settings))
    json.dumps(about, allow_nan=False)
    return about


def test_a_checkpoint_of_ssltool_is_described(trained):
    file = trained / "checkpoint.pt"
    about = look(file)
    weights = torch.load(file, weights_only=True)["state_dict"]
    wanted = {
        "path": str(file),
        "kind": "checkpoint",
        "program": "ssltool",
        "format": "ssltool/checkpoint/1",
        "method": "simsiam",
        "arch": "resnet18_w8",
        "stem": "small-stride2",
        "image_size": 16,
        "width": 64,
        "epoch": 2,
        "step": 6,
        "tensors": len(weights),
        "parameters": sum(t.numel() for t in weights.values() if t.is_floating_point()),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "bytes": file.stat().st_size,
    }
    assert {key: about[key] for key in wanted} == wanted
    assert about["settings"]["batch_size"] == 32


@pytest.mark.parametrize("name", ["simsiam", "moco-v3, ViT", "swav", "dino", "solo-learn, CIFAR", "bare weights"])
def test_a_checkpoint_of_another_library_is_described(tmp_path, name):
    case = PROGRAMS[name]()
    torch.save(case.entries, tmp_path / "x.pth")
    about = look(tmp_path / "x.pth")
    assert (about["kind"], about["program"], about["method"]) == ("checkpoint", case.program, case.method)
    assert about["epoch"] == case.epoch and "problem" not in about
    with torch.inference_mode():
        assert about["width"] == case.network(torch.zeros(1, 3, case.size, case.size)).shape[1]


def test_lightnings_settings_are_shown(tmp_path):
    torch.save(PROGRAMS["solo-learn, CIFAR"]().entries, tmp_path / "x.ckpt")
    assert look(tmp_path / "x.ckpt")["settings"]["hyper_parameters"] == {"lr": 0.1}


def test_keys_lists_every_tensor_once(tmp_path):
    entries = {"state_dict": bare().entries, "epoch": 1, "other": {"deep": {"a": torch.ones(2, 3)}}}
    torch.save(entries, tmp_path / "x.pth")
    assert "keys" not in look(tmp_path / "x.pth")
    listed = {name: rest for name, *rest in look(tmp_path / "x.pth", keys=True)["keys"]}
    assert listed.pop("other/deep/a") == ["float32", 2, 3]
    assert listed == {
        f"state_dict/{name}": [str(t.dtype).removeprefix("torch."), *t.shape] for name, t in bare().entries.items()
    }


def test_partial_backbone_is_weights_with_a_problem(tmp_path):
    entries = bare().entries
    del entries["layer4.1.conv2.weight"]
    torch.save(entries, tmp_path / "x.pth")
    about = look(tmp_path / "x.pth")
    assert about["kind"] == "weights" and "missing: layer4.1.conv2.weight" in about["problem"]
    assert about["tensors"] == len(entries)


def test_a_vit_with_an_unknown_number_of_heads_has_a_problem(tmp_path):
    state = vit(embed_dim=384, num_heads=6, depth=12, img_size=8).state_dict()
    state["pos_embed"][:, 0] = 0
    torch.save(state, tmp_path / "x.pth")
    assert "heads" in look(tmp_path / "x.pth")["problem"]


def test_weights_of_an_unknown_network_are_counted(tmp_path):
    torch.save(linear("net.", 0, 1), tmp_path / "x.pth")
    about = look(tmp_path / "x.pth")
    assert (about["kind"], about["tensors"], about["parameters"]) == ("weights", 4, 12)
    torch.save({"note": "nothing", "n": 3}, tmp_path / "y.pth")
    assert look(tmp_path / "y.pth")["settings"] == {"note": "nothing", "n": 3}


def test_every_kind_of_file_of_ssltool_is_recognised(tmp_path, write_reprs):
    about = look(write_reprs("reprs.pt", torch.ones(5, 3)))
    assert (about["kind"], about["shapes"]["representations"]) == ("representations", ["float32", 5, 3])
    assert about["settings"] == {"dataset": "made-up"}
    files = {
        "probe": Probe(torch.ones(2, 3), torch.ones(2), {"lr": 0.1}, {"acc1": 0.5}),
        "spectrum": Spectrum(torch.ones(4).double(), {"auc": 0.7}, {"n": 4}),
        "neighbours": Neighbours(torch.zeros(2, 1).long(), torch.ones(2, 1), torch.arange(2), torch.zeros(2, 1).long()),
    }
    for kind, file in files.items():
        file.save(tmp_path / f"{kind}.pt")
        assert look(tmp_path / f"{kind}.pt")["kind"] == kind
    assert look(tmp_path / "probe.pt")["metrics"] == {"acc1": 0.5}


def test_files_of_the_collapse_paper_are_recognised(tmp_path):
    torch.save({"representations": torch.ones(2, 3), "targets": torch.ones(2)}, tmp_path / "r.pt")
    torch.save({"stds": torch.ones(3)}, tmp_path / "s.pt")
    assert [look(tmp_path / name)["kind"] for name in ("r.pt", "s.pt")] == ["representations", "spectrum"]


def test_rows_of_other_programs_are_representations_under_any_key_that_stages_read(tmp_path):
    torch.save({"features": torch.ones(2, 3), "labels": [0, 1]}, tmp_path / "f.pt")
    np.save(tmp_path / "n.npy", np.ones((2, 3), np.float32))
    np.save(tmp_path / "n_targets.npy", np.zeros(2, np.int64))
    for name in ("f.pt", "n.npy"):
        about = look(tmp_path / name)
        assert (about["kind"], about["shapes"]["representations"]) == ("representations", ["float32", 2, 3])
        assert "problem" not in about


def test_rows_that_no_stage_can_read_have_a_problem(tmp_path):
    for rows in (torch.ones(2, 3).to_sparse(), torch.ones(2, 3).long(), torch.ones(2, 3, 2, 2), torch.ones(0, 3)):
        torch.save({"representations": rows}, tmp_path / "r.pt")
        about = look(tmp_path / "r.pt")
        assert about["kind"] == "representations" and "representations" in about["problem"]


def test_orders_and_image_numbers_are_told_apart(tmp_path):
    arrays = {"order": np.array([2, 0, 1]), "image numbers": np.array([5, 3]), "array": np.ones((2, 2))}
    for kind, array in arrays.items():
        np.save(tmp_path / "x.npy", array)
        assert look(tmp_path / "x.npy")["kind"] == kind
        assert look(tmp_path / "x.npy")["shapes"]["array"][1:] == list(array.shape)
    np.save(tmp_path / "x.npy", np.array([{"a": 1}]), allow_pickle=True)
    assert look(tmp_path / "x.npy")["kind"] == "unreadable"


def test_a_run_folder_is_described(trained):
    about = look(trained)
    assert (about["kind"], about["stage"], about["epochs_done"]) == ("run folder", "pretrain", 2)
    assert "checkpoint.pt" in about["files"] and about["last"]["epoch"] == 1
    assert about["settings"]["arch"] == about["arch"] == "resnet18_w8"


def test_the_checkpoints_in_a_folder_and_its_subfolders_are_described_in_order(tmp_path, trained):
    for name in ("b_10.pth", "b_9.pth"):
        torch.save(PROGRAMS["simsiam"]().entries, tmp_path / name)
    torch.save(PROGRAMS["dino"]().entries, tmp_path / "a.pth.tar")
    (tmp_path / "broken.ckpt").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"x")
    (tmp_path / ".hidden.pt").write_bytes(b"x")
    (tmp_path / "run").symlink_to(trained)
    about = look(tmp_path)
    names = [os.path.relpath(one["path"], tmp_path) for one in about["checkpoints"]]
    assert names[:4] == ["a.pth.tar", "b_9.pth", "b_10.pth", "broken.ckpt"]
    assert names[4:] == sorted(f"run/{path.name}" for path in trained.glob("*.pt"))
    assert (about["kind"], about["unusable"]) == ("folder of checkpoints", 1)
    for one in about["checkpoints"]:
        assert one == look(one["path"])


def test_a_run_folder_lists_its_checkpoints(trained):
    about = look(trained)
    assert about["kind"] == "run folder" and about["unusable"] == 0
    assert {one["path"] for one in about["checkpoints"]} == {str(path) for path in trained.glob("*.pt")}


def test_a_folder_of_the_hub_stays_one_model_also_inside_of_a_folder(tmp_path, trained):
    described(tmp_path / "a.safetensors", "resnet18_w8", 32, "imagenet")
    export(tmp_path / "a.safetensors", "huggingface", tmp_path / "hub" / "model")
    assert "checkpoints" not in look(tmp_path / "hub" / "model")
    (row,) = look(tmp_path / "hub")["checkpoints"]
    assert (row["path"], row["epoch"], row["width"]) == (str(tmp_path / "hub" / "model"), 7, 64)


def test_damaged_weights_of_a_model_folder_are_found(tmp_path, ssltool):
    described(tmp_path / "a.safetensors", "resnet18_w8", 32, "imagenet")
    export(tmp_path / "a.safetensors", "huggingface", tmp_path / "models" / "hub")
    assert ssltool("inspect", "--verify", tmp_path / "models").code == 0
    (weights,) = (tmp_path / "models" / "hub").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    for named in (weights, tmp_path / "models" / "hub", tmp_path / "models"):
        ran = ssltool("inspect", "--verify", named, "--json")
        assert ran.code == 1 and [one["state"] for one in ran.json["files"]] == ["damaged"]
    weights.unlink()
    assert ssltool("inspect", "--verify", tmp_path / "models").code == 1


def test_a_network_cannot_be_chosen_in_a_model_folder(tmp_path, ssltool):
    described(tmp_path / "a.safetensors", "resnet18_w8", 32, "imagenet")
    export(tmp_path / "a.safetensors", "huggingface", tmp_path / "hub")
    assert "--key student has no effect" in look(tmp_path / "hub", key="student")["problem"]
    ran = ssltool("export", tmp_path / "hub", "--to", "timm", "-o", tmp_path / "o.pth", "--key", "student")
    assert ran.code == 1 and not (tmp_path / "o.pth").exists()


def test_the_table_of_a_folder_has_one_row_for_each_file_and_counts_the_unusable(ssltool, tmp_path):
    torch.save(PROGRAMS["simsiam"]().entries, tmp_path / "good.pth")
    torch.save({"representations": torch.ones(2, 3)}, tmp_path / "rows.pt")
    (tmp_path / "bad.ckpt").write_bytes(b"x")
    done = ssltool("inspect", tmp_path)
    assert done.code == 0
    rows = {line.split()[0]: line for line in done.out.splitlines() if line}
    assert rows["good.pth"].split()[1:6] == ["simsiam", "resnet18_w8", "simsiam", "100", "64"]
    assert "encoder.fc, predictor" in rows["good.pth"] and "unreadable" in rows["bad.ckpt"]
    assert rows["rows.pt"].endswith("representations") and "3 files, 1 of them unusable" in done.out


def test_a_folder_that_is_not_a_run_has_a_problem(tmp_path):
    assert "config.json" in look(tmp_path)["problem"]


def test_json_files_are_recognised_by_their_format(tmp_path):
    (tmp_path / "a.json").write_text('{"format": "ssltool/forecast/1", "r2": 0.5}')
    (tmp_path / "b.json").write_text("{")
    assert look(tmp_path / "a.json")["kind"] == "forecast"
    assert look(tmp_path / "b.json")["kind"] == "unreadable"


def test_pickled_objects_are_named_and_not_executed(tmp_path):
    torch.save(dino().entries | {"args": dino_arguments()}, tmp_path / "x.pth")
    about = look(tmp_path / "x.pth", keys=True)
    assert about["kind"] == "checkpoint" and about["skipped"] == ["argparse.Namespace"]
    assert about["settings"]["args"] == vars(dino_arguments())
    assert (about["taken"], about["not_taken"]) == ("teacher", ["student"])
    assert about["sha256"] == hashlib.sha256((tmp_path / "x.pth").read_bytes()).hexdigest()


def test_parquet_tables_are_recognised(tmp_path):
    pandas.DataFrame({"a": [1.0]}).to_parquet(tmp_path / "x.parquet")
    assert look(tmp_path / "x.parquet")["kind"] == "table"


@pytest.mark.parametrize("name", ["x.pt", "x.npy", "x.json", "x.safetensors", "x.parquet", "x"])
@pytest.mark.parametrize("contents", [b"", b"\x00" * 100, b"PK\x03\x04", b"\x93NUMPY\x01", bytes(range(256))])
def test_garbage_is_reported_as_unreadable(tmp_path, name, contents):
    (tmp_path / name).write_bytes(contents)
    about = look(tmp_path / name)
    assert about["kind"] == "unreadable" and about["problem"] and "\n" not in about["problem"]


@pytest.mark.parametrize(
    "entries",
    [
        {"format": "ssltool/checkpoint/1"},
        {"format": "ssltool/checkpoint/1", "config": 3} | dict.fromkeys(["method", "arch", "epoch", "step"], 1),
        {"format": "ssltool/checkpoint/9"},
        {"format": "ssltool/"},
        {"format": 3},
        {1: torch.ones(2), (2, 3): "x"},
        {"layer1.0.conv1.weight": torch.ones(())},
        {"conv_proj.weight": torch.ones(())},
        {"conv_proj.weight": torch.ones(2, 3, 4, 4), "encoder.pos_embedding": torch.ones(())},
        {"layer1.0.conv1.weight": torch.ones(2), "bn1.weight": torch.ones(())},
        {"state_dict": {}, "epoch": True},
        {},
    ],
)
def test_malformed_files_have_a_problem_and_raise_no_error(tmp_path, entries):
    filled = entries | (
        dict.fromkeys(["state_dict", "optimizer", "scaler", "metrics"], 2) if entries.get("config") == 3 else {}
    )
    torch.save(filled, tmp_path / "x.pt")
    about = look(tmp_path / "x.pt", keys=True)
    assert about["kind"] and (about.get("problem") or about["kind"] == "unknown")


def test_a_format_that_is_a_deeply_nested_list_is_none(tmp_path):
    nested: object = "ssltool/checkpoint/1"
    for _ in range(3000):
        nested = [nested]
    with deep():
        torch.save({"format": nested, "state_dict": {}}, tmp_path / "x.pt")
    assert look(tmp_path / "x.pt")["problem"]


def test_no_file_or_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError):
        run(InspectConfig())
    with pytest.raises(SSLToolError, match="gone"):
        look(tmp_path / "gone")


def test_the_table_has_the_values_of_the_json_document(ssltool, trained, tmp_path):
    (tmp_path / "garbage.pt").write_bytes(b"x")
    files = (trained / "checkpoint.pt", trained, tmp_path / "garbage.pt")
    document, text = ssltool("inspect", *files, "--json"), ssltool("inspect", *files, "--keys")
    assert document.code == text.code == 0
    assert [one["kind"] for one in document.json["files"]] == ["checkpoint", "run folder", "unreadable"]
    for one in document.json["files"]:
        assert one["path"] in text.out
    assert "resnet18_w8" in text.out and "batch_size=32" in text.out
    assert "state_dict/backbone.conv1.weight" in text.out and "8 x 3 x 3 x 3" in text.out


def test_inspect_does_not_change_files(trained):
    before = {path: path.read_bytes() for path in Path(trained).iterdir() if path.is_file()}
    look(trained)
    look(trained / "checkpoint.pt")
    assert before == {path: path.read_bytes() for path in Path(trained).iterdir() if path.is_file()}


def test_a_pipe_is_unreadable_and_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "x.pt")
    about = look(tmp_path / "x.pt")
    assert about["kind"] == "unreadable" and "pipe" in about["problem"]


def test_archives_of_arrays_are_representations_whatever_their_name(tmp_path):
    with open(tmp_path / "x.pt", "wb") as stream:
        np.savez(stream, representations=np.ones((2, 3), np.float32))
    assert look(tmp_path / "x.pt")["kind"] == "representations"
