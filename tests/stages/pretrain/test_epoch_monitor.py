"""The monitor of a run: its images, its records, that it does not change the run, its warnings and stopping."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fork_server import run_ranks

import ssltool.diagnosis.alarms
import ssltool.diagnosis.monitor
import ssltool.stages.pretrain.epoch_monitor
from helpers import TINY, records, same_bits, same_run
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.data.images import open_dataset
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET, Preprocessing
from ssltool.data.shard import Shard
from ssltool.diagnosis.kinds import RATIOS
from ssltool.diagnosis.layer_metrics import MEASURED
from ssltool.diagnosis.measure import measure as measure_exactly
from ssltool.diagnosis.verdict import Verdict
from ssltool.errors import Collapsed, Interrupted
from ssltool.methods import METHODS
from ssltool.methods.base import Method
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.pretrain.epoch_monitor import EpochMonitor, has_collapsed, in_memory, summary
from ssltool.stages.pretrain.prepare import prepare
from tiny_methods import tiny_config

CPU = torch.device("cpu")
HALF = (0.5, 0.5, 0.5)
EXACT = ("auc", "effective_rank", "rankme", "feature_std", "mean_cosine", "alpha")
RECORD = {"epoch": 0, "step": 1, "loss": 0.0, "lr": 1.0, "fixed_lr": 1.0}
LONG = 1e9
"""Seconds of an epoch, long compared with any check."""


@pytest.mark.parametrize("transform", [IMAGENET.at(16), Preprocessing(16, 20, interpolation="bicubic", mean=HALF)])
def test_files_in_memory_are_bit_identical_to_the_validation_transform(tiny, tmp_path, write_images, transform):
    write_images(tmp_path / "images" / "a", 5, size=(24, 16))
    write_images(tmp_path / "images" / "b", 4, size=(18, 40))
    images = open_dataset(tiny(data=str(tmp_path / "images")), "train")
    kept = in_memory(images, transform, CPU, 0)
    assert images.images is None and kept.images.images is not None and kept.images.paths is None
    with contextlib.closing(Loader(images, transform, CPU)) as files:
        pairs = list(zip(files.evaluate(4), kept.evaluate(4), strict=True))
    assert len(pairs) == 3
    assert all(torch.equal(a.views[0], b.views[0]) and torch.equal(a.labels, b.labels) for a, b in pairs)


def monitor_of(config: Any) -> tuple[EpochMonitor, Method]:
    setup = prepare(config)
    return EpochMonitor(setup, CPU, Shard()), setup.build_method()


def probe(config: Any) -> list[bytes]:
    """The sampled images."""
    pixels = monitor_of(config)[0].images.loader.images.images
    assert pixels is not None
    return [image.numpy().tobytes() for image in pixels]


def test_the_sample_depends_on_the_seed_and_is_from_the_training_images(tiny, tmp_path):
    np.save(tmp_path / "subset.npy", np.arange(100, 400))
    own = {"idx_path": str(tmp_path / "subset.npy"), "monitor_size": 200}
    first, again, other = (probe(tiny(seed=seed, **own)) for seed in (1, 1, 2))
    images = open_dataset(tiny(**own), "train").images
    assert images is not None
    assert len(first) == 200 and first == again != other
    assert set(first) | set(other) <= {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize(("images", "asked", "size"), [(8000, None, 1000), (300, None, 256), (100, None, 100)])
def test_the_default_sample_is_an_eighth_of_the_images_but_at_least_256(tiny, tmp_path, images, asked, size):
    np.save(tmp_path / "subset.npy", np.arange(images))
    config = tiny(idx_path=str(tmp_path / "subset.npy"), monitor_size=asked)
    assert prepare(config).config.monitor_size == len(monitor_of(config)[0].images.labels) == size


@pytest.mark.parametrize(("asked", "size"), [(7, 7), (500, 300)])
def test_a_given_sample_size_is_used_up_to_all_images(tiny, tmp_path, asked, size):
    np.save(tmp_path / "subset.npy", np.arange(300))
    config = tiny(idx_path=str(tmp_path / "subset.npy"), monitor_size=asked)
    assert len(probe(config)) == size


@pytest.mark.parametrize("name", METHODS)
def test_a_check_does_not_change_the_method_and_measures_the_output_of_embed(name, trained, tmp_path):
    monitor, method = monitor_of(tiny_config(name, tmp_path / "run", trained, monitor_size=50))
    method.train()
    with torch.no_grad():
        for p in method.parameters():  # residual branches start at zero
            p += 0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    before = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    modes, drawn = [module.training for module in method.modules()], torch.get_rng_state()
    values = monitor.check(method, RECORD, [], LONG).values
    assert same_bits(before, method.state_dict())
    assert modes == [module.training for module in method.modules()]
    assert torch.equal(drawn, torch.get_rng_state())
    layers = {key.partition("_")[0] for key in values if key.endswith("_auc")}
    alone = name in ("supervised", "mae", "ijepa", "directclr")
    assert layers == ({"backbone"} if alone else {"backbone", "projector"})
    method.eval()
    with torch.no_grad():
        for layer in layers:
            batches = monitor.images.loader.evaluate(50)
            rows = torch.cat([method.embed(batch.views[0], layer) for batch in batches])
            exact = measure_exactly(rows, EXACT).metrics
            ours = {key: values[f"{layer}_{key}"] for key in EXACT if values[f"{layer}_{key}"] is not None}
            assert ours == pytest.approx({key: exact[key] for key in ours}, rel=1e-4)
            assert EXACT[:5] == tuple(ours)[:5]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"options": ("stop_grad=false",)},
        {"precision": "bf16"},
        {"method": "supervised", "dim": None, "pred_dim": None},
    ],
    ids=["plain", "collapsing", "bf16", "with labels"],
)
def test_weights_are_bit_identical_with_and_without_the_monitor(tiny, changes):
    watched, alone = (
        Checkpoint.load(pretrain(tiny(f"every {n}", monitor_every=n, **changes)) / "checkpoint.pt") for n in (1, 0)
    )
    assert same_bits(watched.state_dict, alone.state_dict)
    assert same_bits(watched.optimizer, alone.optimizer)


TIMING = {"images_per_second", "data_wait", "seconds", "monitor_seconds", "monitor_share"}
MONITOR_KEYS = {f"{layer}_{name}" for layer in ("backbone", "projector") for name in (*MEASURED, "dead_dimensions")}
MONITOR_KEYS |= {f"{layer}_{name}" for layer in ("backbone", "projector") for name in RATIOS}
MONITOR_KEYS |= {"backbone_knn", "verdict", "kinds", "monitor_seconds", "monitor_share"}


def untimed(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key not in TIMING} for record in records(run)]


@pytest.mark.parametrize(("every", "monitored_epochs"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (9, [4]), (0, [])])
def test_every_nth_and_the_last_epoch_have_the_monitors_metrics_in_their_record(tiny, every, monitored_epochs):
    run = pretrain(tiny(epochs=5, steps_per_epoch=1, monitor_every=every))
    found = {record["epoch"]: MONITOR_KEYS & record.keys() for record in records(run)}
    assert found == {epoch: MONITOR_KEYS if epoch in monitored_epochs else set() for epoch in range(5)}
    for record in records(run):
        assert record.get("monitor_seconds", 1) > 0 and record.get("monitor_share", 1) > 0
        assert 0 <= record.get("backbone_knn", 0) <= 1
        assert 0.5 < record.get("backbone_auc", 1) <= 1


def test_the_record_is_strict_json_with_null_for_undefined_metrics(tiny):
    """A projection of 16 dimensions has too few for alpha."""

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    run = pretrain(tiny(steps_per_epoch=1))
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line, parse_constant=refuse)
        assert record["projector_alpha"] is None
        assert math.isfinite(record["backbone_alpha"])


def test_images_without_labels_have_no_knn(tiny, tmp_path, write_images):
    write_images(tmp_path / "images", 40)
    run = pretrain(tiny(data=str(tmp_path / "images"), steps_per_epoch=1))
    assert [MONITOR_KEYS - record.keys() for record in records(run)] == [{"backbone_knn"}] * 2


@pytest.mark.parametrize("done", [2, 3], ids=["at the end of an epoch", "in mid-epoch"])
def test_a_resumed_run_has_the_records_of_an_uninterrupted_run(tiny, interrupt_at, done):
    whole = pretrain(tiny("whole"))
    config = tiny()
    interrupt_at(done)
    with pytest.raises(Interrupted):
        pretrain(config)
    run = pretrain(dataclasses.replace(config, resume="auto"))
    assert untimed(run) == untimed(whole)
    assert same_run(run, whole)


def test_the_share_of_an_interrupted_epoch_is_that_of_the_whole_epoch(tiny, interrupt_at, monkeypatch):
    """What is trained after the interruption takes as long per step as the rest."""
    told = []
    check = EpochMonitor.check

    def spy(self: EpochMonitor, method: Method, record: Any, history: Any, epoch_seconds: float) -> Any:
        told.append(epoch_seconds)
        return check(self, method, record, history, epoch_seconds)

    config = tiny(epochs=1, steps_per_epoch=6)
    interrupt_at(3)
    with pytest.raises(Interrupted):
        pretrain(config)
    monkeypatch.setattr(EpochMonitor, "check", spy)
    (record,) = records(pretrain(dataclasses.replace(config, resume="auto")))
    assert told == [pytest.approx(3 * record["seconds"], abs=0.02)]


def flatten(method: Method) -> Method:
    """Makes all outputs constant."""
    with torch.no_grad():
        for p in method.parameters():
            p.zero_()
    return method


def test_constant_outputs_are_a_complete_collapse(tiny):
    monitor, method = monitor_of(tiny())
    found = monitor.check(flatten(method), RECORD, [], LONG)
    assert found.values["verdict"] == "complete"
    assert found.values["backbone_auc"] == found.values["projector_auc"] == 1.0
    (warning,) = found.warnings
    assert "complete collapse: " in warning


@pytest.mark.parametrize("states", [("healthy", "partial"), ("partial", "healthy"), ("partial", "complete")])
def test_the_verdict_is_that_of_the_worst_layer(tiny, monkeypatch, states):
    by_width = dict(zip((64, 16), states, strict=True))
    monkeypatch.setattr(
        ssltool.diagnosis.alarms, "judge", lambda metrics, *, d, **_: Verdict(by_width[d], by_width[d], [])
    )
    monitor, method = monitor_of(tiny())
    found = monitor.check(method, RECORD, [], LONG)
    worse = "complete" if "complete" in states else "partial"
    assert found.values["verdict"] == worse
    (warning,) = found.warnings
    assert warning.startswith(f"the {('backbone', 'projector')[states.index(worse)]} shows {worse}. ")


def warnings_after(tiny: Any, *verdicts: str | None, **changes: Any) -> list[str]:
    """What is said of a collapsed network after epochs with these verdicts; None were not looked at."""
    history = [{"epoch": i} | ({"verdict": v} if v else {}) for i, v in enumerate(verdicts)]
    monitor, method = monitor_of(tiny(epochs=9, **changes))
    return monitor.check(flatten(method), RECORD | {"epoch": len(history)}, history, LONG).warnings


@pytest.mark.parametrize("before", [(), ("healthy",), ("partial",), ("complete", "healthy"), ("partial", None)])
def test_a_worse_verdict_gives_a_warning(tiny, before):
    (warning,) = warnings_after(tiny, *before)
    assert "complete collapse" in warning and "Probable cause: " in warning


@pytest.mark.parametrize("before", [("complete",), ("healthy", "complete"), ("complete", None)])
def test_an_unchanged_verdict_gives_no_warning(tiny, before):
    assert warnings_after(tiny, *before) == []


def cause(tiny: Any, record: dict[str, Any] | None = None, **changes: Any) -> str:
    monitor, method = monitor_of(tiny(epochs=4, **changes))
    (warning,) = monitor.check(flatten(method), RECORD | (record or {}), [], LONG).warnings
    return warning.partition("Probable cause: ")[2]


def test_settings_of_the_method_are_reported_as_cause(tiny):
    assert cause(tiny, options=("stop_grad=false",)).endswith("(stop_grad=false)")


def test_the_loss_of_a_constant_output_is_reported_as_cause(tiny):
    assert cause(tiny, {"loss": -0.999}).startswith("the loss of -0.999 ")


def test_small_batches_with_batch_norm_are_reported_as_cause(tiny):
    text = cause(tiny, batch_size=8)
    assert "batch norm" in text and "--batch-size" in text


def test_a_decayed_predictor_learning_rate_is_reported_as_cause(tiny):
    said = cause(tiny, {"epoch": 1, "lr": 0.25})
    assert "25%" in said and "--fix-pred-lr" in said


@pytest.mark.parametrize(
    ("changes", "record"),
    [
        ({}, {}),
        ({"fix_pred_lr": True}, {"epoch": 1, "lr": 0.25}),
        ({"warmup_epochs": 2}, {"epoch": 1, "lr": 0.25}),
        ({"options": ("predictor=fixed",)}, {"epoch": 1, "lr": 0.25}),
    ],
    ids=["at first", "fixed", "in the warm-up", "it does not learn"],
)
def test_a_predictor_learning_rate_that_has_not_decayed_is_not_a_cause(tiny, changes, record):
    assert "learning rate" not in cause(tiny, record, **changes)


def test_an_unknown_cause_is_reported_as_unknown(tiny):
    assert cause(tiny).startswith("unknown; try a lower --lr")


@pytest.fixture
def dying(tiny, monkeypatch):
    """Warnings for a backbone with ``dead`` of 64 dimensions dead, after checks that found ``before``."""

    def warnings(dead: int, *before: int, verdict: str = "healthy") -> list[str]:
        monkeypatch.setattr(ssltool.diagnosis.alarms, "judge", lambda metrics, **_: Verdict(verdict, verdict, []))
        monitor, method = monitor_of(tiny(epochs=99))
        alive = torch.arange(64) >= dead
        method.backbone.register_forward_hook(lambda module, given, made: torch.randn(made.shape) * alive)
        history = [{"epoch": i, "verdict": "healthy", "backbone_dead_dimensions": n} for i, n in enumerate(before)]
        return monitor.check(method, RECORD | {"epoch": len(history)}, history, LONG).warnings

    return warnings


@pytest.mark.parametrize(
    ("dead", "before", "said"),
    [
        (30, [10], True),
        (30, [10, 14], True),
        (30, [10, 20], False),
        (30, [30, 30], False),
        (30, [], False),
        (30, [31], False),
    ],
    ids=["thrice", "twice as many", "not yet twice", "as many", "first check", "fewer"],
)
def test_dead_dimensions_give_a_warning_each_time_their_number_doubles(dying, dead, before, said):
    first = f"initially {before[0]}" if before else ""
    wanted = [f"dead dimensions of the backbone: {dead} of 64, {first}"] if said else []
    assert dying(dead, *before) == wanted


def test_an_increase_of_dead_dimensions_is_reported_as_cause(dying):
    (warning,) = dying(30, 20, verdict="complete")
    assert warning.endswith("dead dimensions of the backbone: 30 of 64, initially 20")


def test_non_finite_outputs_have_no_verdict_and_give_a_warning(tiny):
    monitor, method = monitor_of(tiny())
    method.projector.register_forward_hook(lambda module, given, made: made * math.inf)
    found = monitor.check(method, RECORD, [], LONG)
    assert found.values["verdict"] is None is found.values["projector_auc"]
    assert found.values["backbone_auc"] is not None
    assert found.warnings[0] == "the output of the projector is not finite"
    assert not has_collapsed(found.values, "partial")
    assert summary(found.values) == "; no verdict: outputs are not finite"


def test_a_slow_monitor_gives_a_single_warning_with_cheaper_settings(tiny, monkeypatch):
    """Two seconds per ten seconds of training are four times the limit."""
    clock = iter(range(0, 100, 2))
    monkeypatch.setattr(ssltool.diagnosis.monitor.time, "perf_counter", lambda: next(clock))
    monitor, method = monitor_of(tiny(epochs=9, monitor_size=64))
    history = [{"verdict": "complete"}]
    results = [monitor.check(flatten(method), RECORD | {"epoch": epoch}, history, 10.0) for epoch in range(3)]
    assert [result.timing for result in results] == [{"monitor_seconds": 2, "monitor_share": 0.2}] * 3
    (warning,) = results[0].warnings
    assert all(text in warning for text in ("20%", "--monitor-every 5 ", "4%"))
    assert "--monitor-size" not in warning  # 16 of 64 images would be too few to measure a rank
    assert [result.warnings for result in results[1:]] == [[], []]


def test_the_share_of_the_monitor_includes_epochs_without_a_check(tiny, monkeypatch):
    clock = iter(range(0, 100, 2))
    monkeypatch.setattr(ssltool.diagnosis.monitor.time, "perf_counter", lambda: next(clock))
    monitor, method = monitor_of(tiny(epochs=9, monitor_every=4))
    history = [{"verdict": "complete"}]
    results = [monitor.check(flatten(method), RECORD | {"epoch": epoch}, history, 10.0) for epoch in range(4)]
    assert [result.warnings for result in results] == [[]] * 4
    assert [result.timing for result in results] == [{}, {}, {}, {"monitor_seconds": 2, "monitor_share": 0.2}]


def test_the_line_of_an_epoch_shows_the_summary(ssltool, tmp_path):
    ran = ssltool("pretrain", *TINY, "--epochs", 2, "--steps-per-epoch", 2, "-b", 16, "-o", tmp_path / "run")
    for record in records(tmp_path / "run"):
        (line,) = (line for line in ran.err.splitlines() if line.startswith(f"epoch {record['epoch'] + 1}/2: loss"))
        assert line.endswith(summary(record))
        for text in (f"AUC {record['backbone_auc']:.3f}", f"kNN {record['backbone_knn']:.1%}", record["verdict"]):
            assert text in line


@pytest.mark.parametrize(
    ("verdict", "limit", "has"),
    [
        ("healthy", "partial", False),
        ("partial", "partial", True),
        ("partial", "complete", False),
        ("complete", "partial", True),
        ("complete", "complete", True),
        ("complete", None, False),
        (None, "partial", False),
    ],
)
def test_has_collapsed_compares_severities(verdict, limit, has):
    assert has_collapsed({"verdict": verdict}, limit) is has


@pytest.fixture
def collapses(monkeypatch):
    """Lets a run collapse in part at one epoch, counted from 0, and heal after it: ``collapses(1)``."""

    def arm(epoch: int) -> None:
        check = EpochMonitor.check

        def looking(self: EpochMonitor, method: Method, record: Any, history: Any, seconds: float) -> Any:
            found = check(self, method, record, history, seconds)
            verdict = "partial" if record["epoch"] == epoch else "healthy"
            return dataclasses.replace(found, values=found.values | {"verdict": verdict}, warnings=[])

        monkeypatch.setattr(EpochMonitor, "check", looking)

    return arm


def test_a_collapsed_run_stops_saved_and_can_be_resumed(tiny, collapses, ssltool, tmp_path):
    collapses(1)
    whole = pretrain(tiny("whole", epochs=4))
    schedule = ["--epochs", 4, "--steps-per-epoch", 3, "-b", 16, "--monitor-size", 64, "--device", "cpu"]
    ran = ssltool("pretrain", *TINY, *schedule, "--stop-on", "partial", "-o", tmp_path / "run")
    run = tmp_path / "run"
    assert (ran.code, ran.out) == (3, f"{run}\n")
    assert ran.err.splitlines()[-1] == (
        f"stopped after epoch 2: partial collapse (dimensional), and --stop-on partial; saved {run / 'checkpoint.pt'}"
    )
    kept = [Checkpoint.load(run / name) for name in ("checkpoint.pt", "checkpoint_0001.pt")]
    assert [(checkpoint.epoch, checkpoint.step) for checkpoint in kept] == [(2, 6)] * 2
    assert [record["epoch"] for record in records(run)] == [0, 1]
    ran = ssltool("pretrain", *TINY, *schedule, "--resume", "auto", "-o", run)
    assert (ran.code, ran.out) == (0, f"{run}\n")
    assert same_run(run, whole)
    assert untimed(run) == untimed(whole)


def test_a_run_continues_after_a_less_severe_collapse(tiny, collapses):
    collapses(1)
    assert Checkpoint.load(pretrain(tiny(epochs=3, stop_on="complete")) / "checkpoint.pt").epoch == 3


def test_collapse_in_the_last_epoch_stops_the_run_too(tiny, collapses, tmp_path):
    collapses(1)
    with pytest.raises(Collapsed) as stop:
        pretrain(tiny(stop_on="partial"))
    assert stop.value.folder == tmp_path / "run"
    assert Checkpoint.load(tmp_path / "run" / "checkpoint.pt").epoch == 2


PROGRAM = '''
"""What each of two ranks finds of an untrained network, and of a run that stops because one rank judges so."""

import json
import sys
from pathlib import Path

import torch

import ssltool.diagnosis.alarms
import ssltool.diagnosis.monitor
import ssltool.stages.pretrain.epoch_monitor
from ssltool.diagnosis.verdict import Verdict
from ssltool.config import PretrainConfig
from ssltool.stages.pretrain.epoch_monitor import EpochMonitor
from ssltool.stages.pretrain.pretrain import Pretraining
from ssltool.training import distributed

torch.set_num_threads(1)
out, cpu = Path(sys.argv[1]), torch.device("cpu")
settings = json.loads((out / "settings.json").read_text())
with distributed.process_group(cpu, "auto") as shard:
    run = Pretraining(PretrainConfig(**settings), cpu, shard)
    monitor = EpochMonitor(run.setup, cpu, shard)
    record = {"epoch": 0, "step": 1, "loss": 0.0, "lr": 1.0, "fixed_lr": 1.0}
    found = monitor.check(run.state.method, record, [], 1e9)
    measured = ssltool.diagnosis.monitor.measured_layer

    def other_numbers(x, *more):
        values, s = measured(x, *more)
        return {name: value + shard.rank for name, value in values.items()}, s

    ssltool.diagnosis.monitor.measured_layer = other_numbers  # as if rounding differed
    agreed = monitor.check(run.state.method, record, [], 1e9)
    ssltool.diagnosis.alarms.judge = lambda metrics, **_: Verdict("complete", "complete collapse", [])
    run.train()
    ended = {"collapsed": run.collapsed, "epochs": run.state.epoch}
(out / f"rank{shard.rank}.json").write_text(
    json.dumps({"images": len(monitor.images.loader.images), "values": found.values, "agreed": agreed.values} | ended)
)
'''


def test_two_ranks_split_the_images_agree_with_one_process_and_stop_together(tiny, tmp_path, server):
    """101 images are not divisible by two."""
    config = tiny(monitor_size=101, epochs=3, steps_per_epoch=1, stop_on="partial")
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "settings.json").write_text(json.dumps(dataclasses.asdict(config)))
    ran = run_ranks(server, tmp_path / "program.py", tmp_path)
    assert ran.returncode == 0, ran.stderr
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    monitor, method = monitor_of(config)
    alone = monitor.check(method, RECORD, [], LONG).values
    for found in ranks:
        assert found["images"] == 51
        assert (found["collapsed"], found["epochs"]) == (True, 1)
        assert found["agreed"] == ranks[0]["values"]
        assert found["values"].keys() == alone.keys()
        for name, value in alone.items():
            number = isinstance(value, (int, float))
            assert found["values"][name] == (pytest.approx(value, rel=1e-3) if number else value)
    assert ran.stderr.count("stopped after epoch 1") == 1
