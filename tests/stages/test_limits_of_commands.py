"""``--fail-on`` and ``--stop-on`` with kinds of collapse: exit codes, what is refused, and what the results name."""

from __future__ import annotations

import csv
import dataclasses
import math

import pytest
import torch
from torch import Tensor

from helpers import records, usage_message
from ssltool.diagnosis.kinds import KINDS
from ssltool.diagnosis.thresholds import DEFAULT
from ssltool.errors import Collapsed, Interrupted, UsageError
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.pretrain.dry_run import plan as dry_run
from tiny_methods import tiny_config

FLAGS = ["--device", "cpu"]


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def curve(n: int) -> Tensor:
    """Rows of one dimension near each of them, spread over 32."""
    t = torch.rand(n, 1, generator=torch.Generator().manual_seed(0))
    return torch.cat([torch.sin(2 * math.pi * k * t + k) for k in range(1, 33)], dim=1)


def points(classes: Tensor) -> Tensor:
    """Rows that are nearly the same for all images of a class."""
    return torch.linalg.qr(gaussian(64, 64, 1))[0][classes] + 0.01 * gaussian(len(classes), 64)


CLASSES = torch.arange(400) % 10


def test_fail_on_measures_the_kinds_that_it_names(ssltool, write_reprs):
    path = write_reprs("a.pt", curve(2000))
    assert ssltool("collapse", path, *FLAGS, "--fail-on", "partial,dimensional").code == 0
    ran = ssltool("collapse", path, *FLAGS, "--fail-on", "local", "--json")
    assert ran.code == 3 and ran.json["failed"] and ran.json["worst"] == "partial"
    (found,) = ran.json["files"]
    (kind,) = found["verdict"]["kinds"]
    assert (kind["kind"], kind["state"], kind["sentence"]) == ("local", "partial", KINDS["local"].sentence)
    assert set(kind["numbers"]) == set(KINDS["local"].numbers)
    assert "local_dimension" not in found["metrics"]  # not asked for
    assert "kind: local (local_dimension " in ssltool("collapse", path, *FLAGS, "--fail-on", "local").out


def test_a_file_that_is_not_of_the_kind_does_not_fail(ssltool, write_reprs):
    path = write_reprs("a.pt", gaussian(300, 8))
    ran = ssltool("collapse", path, *FLAGS, "--fail-on", "local,cluster,complete", "--json")
    assert ran.code == 0 and not ran.json["failed"]


def test_each_kind_that_is_asked_for_has_its_numbers_and_thresholds_also_in_a_healthy_file(ssltool, write_reprs):
    path, other = write_reprs("a.pt", gaussian(300, 8)), write_reprs("b.pt", curve(2000))
    flags = [*FLAGS, "--fail-on", "local,cluster,dimensional", "--threshold", "local_ratio=4"]
    measured = ssltool("collapse", path, *FLAGS, "--metrics", "local_dimension,twonn,effective_rank", "--json")
    local, cluster, dimensional = ssltool("collapse", path, *flags, "--json").json["files"][0]["asked"]
    assert local["numbers"] == measured.json["files"][0]["metrics"] and not local["shown"]
    assert local["thresholds"] == {"local_lid": DEFAULT.local_lid, "local_ratio": 4}
    assert set(cluster["numbers"]) == set(KINDS["cluster"].numbers)
    assert cluster["numbers"]["clusters_used"] > cluster["thresholds"]["cluster_count"]
    assert dimensional["numbers"]["used_share"] > dimensional["thresholds"]["partial_rank"]
    text = ssltool("collapse", path, other, *flags).out
    assert all(f"{name} {value:.4g}" in text for name, value in local["numbers"].items())
    assert ["local", "yes"] in [line.split()[1:3] for line in text.splitlines() if str(other) in line]


def test_intracluster_needs_labels_or_pseudo_labels(ssltool, write_reprs):
    labelled, bare = write_reprs("a.pt", points(CLASSES), CLASSES), write_reprs("b.pt", points(CLASSES))
    assert ssltool("collapse", labelled, *FLAGS, "--fail-on", "intracluster").code == 3
    ran = ssltool("collapse", bare, *FLAGS, "--fail-on", "intracluster")
    assert ran.code == 2 and "--fail-on intracluster needs the labels" in usage_message(ran)
    assert ssltool("collapse", bare, *FLAGS, "--fail-on", "intracluster", "--pseudo-labels", 10).code == 3


def test_scale_needs_the_untrained_network(ssltool, write_reprs, tmp_path):
    before = {"arch": "resnet18_w8", "layer": "projector", "split": "val", "fingerprint": "here"}
    small = write_reprs("a.pt", 1e-4 * gaussian(300, 8), random=False, epoch=4, **before)
    untrained = write_reprs("b.pt", gaussian(300, 8, 1), random=True, epoch=0, **before)
    trained = write_reprs("c.pt", gaussian(300, 8, 1), random=False, epoch=2, **before)
    other = write_reprs("d.pt", gaussian(300, 8, 1), random=True, epoch=0, **before | {"layer": "backbone"})
    asked = ["collapse", small, *FLAGS, "--fail-on", "scale"]
    assert "--reference FILE" in usage_message(ssltool(*asked))
    assert "trained network (epoch 2)" in usage_message(ssltool(*asked, "--reference", trained))
    assert "layer is backbone, not projector" in usage_message(ssltool(*asked, "--reference", other))
    ran = ssltool(*asked, "--reference", untrained, "--out", tmp_path / "table.csv")
    assert ran.code == 3 and "kind: scale (norm_ratio " in ran.out
    with open(tmp_path / "table.csv", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["verdict"], row["kinds"]) == ("partial", "scale")


@pytest.mark.parametrize("flag", ["--like", "--reference"])
def test_a_network_that_is_as_narrow_as_before_its_training_has_not_collapsed(ssltool, write_reprs, flag):
    meta = {"arch": "resnet18_w8", "layer": "backbone", "split": "val", "fingerprint": "here"}
    rows = torch.ones(300, 8) + 0.1 * gaussian(300, 8)
    trained = write_reprs("a.pt", rows, random=False, epoch=4, **meta)
    untrained = write_reprs("b.pt", rows, random=True, epoch=0, **meta)
    assert ssltool("collapse", trained, *FLAGS, "--fail-on", "partial").code == 3
    assert ssltool("collapse", trained, *FLAGS, "--fail-on", "partial", flag, untrained).code == 0


def test_rows_are_not_left_out_beside_a_reference_of_the_same_images(ssltool, write_reprs):
    path = write_reprs("a.pt", gaussian(50, 4))
    ran = ssltool("collapse", path, *FLAGS, "--skip-nonfinite", "--reference", path)
    assert ran.code == 2 and "--reference" in usage_message(ran)


@pytest.mark.parametrize("kind", ["stale-teacher", "identical-teacher", "uniform-output"])
def test_representations_cannot_show_kinds_of_weights_and_losses(ssltool, write_reprs, kind):
    ran = ssltool("collapse", write_reprs("a.pt", gaussian(50, 4)), *FLAGS, "--fail-on", f"partial,{kind}")
    assert ran.code == 2 and f"--fail-on {kind} needs" in usage_message(ran)


def test_an_unknown_kind_is_refused_with_the_nearest_name(ssltool, write_reprs):
    ran = ssltool("collapse", write_reprs("a.pt", gaussian(50, 4)), *FLAGS, "--fail-on", "dimensionl")
    assert ran.code == 2 and "did you mean dimensional" in usage_message(ran)


def test_the_file_of_an_untrained_network_has_not_collapsed(ssltool, write_reprs):
    rows = torch.ones(100, 8) + 1e-3 * gaussian(100, 8)
    untrained, trained = (
        write_reprs("a.pt", rows, random=True, epoch=0),
        write_reprs("b.pt", rows, random=False, epoch=3),
    )
    ran = ssltool("collapse", untrained, *FLAGS, "--fail-on", "partial")
    assert ran.code == 0 and "the network is untrained, which is no collapse" in ran.out
    assert ssltool("collapse", trained, *FLAGS, "--fail-on", "complete").code == 3
    healthy = write_reprs("h.pt", gaussian(100, 8), random=False, epoch=3)
    narrow = write_reprs("n.pt", gaussian(100, 8) * torch.tensor([1.0] + [1e-3] * 7), random=True, epoch=0)
    ran = ssltool("collapse", narrow, "--like", healthy, *FLAGS, "--fail-on", "partial")
    assert ran.code == 0 and "a ratio below" in ran.out


def test_a_log_shows_uniform_outputs_and_no_kind_of_representations(ssltool, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("epoch,loss\n" + "".join(f"{i},{11.0904 if i else 9}\n" for i in range(30)))
    ran = ssltool("diagnose", path, "--fail-on", "uniform-output", "--json")
    assert ran.code == 3 and ran.json["failed"]
    assert ran.json["reports"][0]["kinds"] == ["uniform-output"]
    assert ran.json["reports"][0]["line"] == KINDS["uniform-output"].sentence
    ran = ssltool("diagnose", path, "--fail-on", "scale")
    assert ran.code == 2 and "--fail-on scale needs" in usage_message(ran)


# Pretraining


def of_byol(tmp_path, momentum: float, **changes):
    config = tiny_config("byol", tmp_path / "run", None, monitor_size=50, **changes)
    options = [text for text in config.options if not text.startswith("momentum")]
    options += [f"momentum={momentum}", f"momentum_final={momentum}"]
    return dataclasses.replace(config, options=tuple(options))


@pytest.mark.parametrize(("momentum", "kind"), [(0.0, "identical-teacher"), (1.0, "stale-teacher")])
def test_a_run_stops_at_the_kind_that_it_was_asked_for(tmp_path, momentum, kind):
    with pytest.raises(Collapsed):
        pretrain(of_byol(tmp_path, momentum, epochs=2, steps_per_epoch=2, stop_on=f"scale,{kind}"))
    (record,) = records(tmp_path / "run")
    assert kind in record["kinds"].split(", ") and record["verdict"] != "healthy"
    assert record["teacher_distance" if momentum == 0 else "teacher_move"] == 0 < record["student_move"]


def test_a_resumed_run_measures_the_same_kinds(tmp_path, interrupt_at):
    whole = of_byol(tmp_path / "whole", 0.5, epochs=2, steps_per_epoch=2, stop_on="local,complete")
    pretrain(whole)
    config = of_byol(tmp_path / "parts", 0.5, epochs=2, steps_per_epoch=2, stop_on="local,complete")
    interrupt_at(whole.steps_per_epoch or 1)
    with pytest.raises(Interrupted):
        pretrain(config)
    pretrain(dataclasses.replace(config, resume="auto"))
    ours, theirs = ([timeless(record) for record in records(tmp_path / name / "run")] for name in ("parts", "whole"))
    assert ours == theirs
    assert {"backbone_local_dimension", "projector_norm_ratio", "teacher_move", "kinds"} <= ours[1].keys()


def timeless(record: dict[str, object]) -> dict[str, object]:
    times = ("images_per_second", "data_wait", "seconds", "monitor_seconds", "monitor_share")
    return {key: value for key, value in record.items() if key not in times}


@pytest.mark.parametrize("stage", [pretrain, dry_run], ids=["train", "dry run"])
@pytest.mark.parametrize("kind", ["stale-teacher", "uniform-output"])
def test_a_run_refuses_a_kind_that_its_method_cannot_show(tiny, stage, kind, tmp_path):
    with pytest.raises(UsageError, match=f"--stop-on {kind} needs .* simsiam"):
        stage(tiny(stop_on=kind))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
