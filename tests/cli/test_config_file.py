"""``--config``: a run is repeated from its ``config.json``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers import TINY, same_run
from ssltool.cli import cli
from ssltool.config import PretrainConfig
from ssltool.runs.repeat import NOT_REPEATED, repeat

SHORT = ["--epochs", 2, "--steps-per-epoch", 2, "-b", 16, "--device", "cpu", "--monitor-every", 0]


def config_of(run: Path) -> dict:
    return json.loads((run / "config.json").read_text())


def different(a: Path, b: Path) -> set[str]:
    """The settings that differ between two runs, but for the folder."""
    one, other = config_of(a), config_of(b)
    assert one.keys() == other.keys()
    return {name for name in one if one[name] != other[name]} - {"out", "monitor_size"}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A run whose settings and options differ from the defaults."""
    run = tmp_path_factory.mktemp("original") / "run"
    flags = [*TINY, *SHORT, "--strategy", "current", "--set", "stop_grad=false", "--fix-pred-lr", "--lr", 0.1]
    cli(["pretrain", *map(str, flags), "-o", str(run)], standalone_mode=False)
    return run


def test_a_repeated_run_has_bit_identical_weights(ssltool, original, tmp_path):
    ran = ssltool("pretrain", "--config", original / "config.json", "-o", tmp_path / "again")
    assert ran.code == 0, ran.err
    assert same_run(original, tmp_path / "again")
    assert different(original, tmp_path / "again") == set()
    assert config_of(tmp_path / "again")["out"] == str(tmp_path / "again")


def test_config_accepts_a_run_folder(ssltool, original, tmp_path):
    assert ssltool("pretrain", "--config", original, "-o", tmp_path / "again").code == 0
    assert different(original, tmp_path / "again") == set()


@pytest.mark.parametrize(
    ("flags", "changed", "options"),
    [
        (["--lr", 0.2], {"lr": 0.2}, {}),
        (["--lr", 0.05], {"lr": 0.05}, {}),  # the default, given
        (["--set", "stop_grad=true"], {}, {"stop_grad": True}),
        (["--dim", 8], {}, {"dim": 8}),
        (["--strategy", "iid"], {"strategy": "iid"}, {}),
        (["--epochs", 1], {"epochs": 1}, {}),
    ],
    ids=str,
)
def test_flags_take_precedence_over_the_file(ssltool, original, tmp_path, flags, changed, options):
    ran = ssltool("pretrain", "--config", original, "-o", tmp_path / "again", *flags)
    assert ran.code == 0, ran.err
    before, after = config_of(original), config_of(tmp_path / "again")
    of_data = {"order_hash", "epoch_images"}  # follow from the strategy and the epochs
    assert different(original, tmp_path / "again") - of_data == changed.keys() | (
        {"method_options"} if options else set()
    )
    assert {name: after[name] for name in changed} == changed
    assert after["method_options"] == before["method_options"] | options


def test_options_of_another_method_are_ignored(ssltool, original, tmp_path):
    ran = ssltool("pretrain", "--config", original, "--alg", "byol", "--set", "dim=16", "-o", tmp_path / "again")
    assert ran.code == 0, ran.err
    after = config_of(tmp_path / "again")
    assert (after["method"], after["lr"], after["method_options"]["dim"]) == ("byol", 0.1, 16)


def test_the_argument_data_takes_precedence_over_the_file(ssltool, original, shades, tmp_path):
    ran = ssltool("pretrain", shades, "--config", original, "-b", 4, "-o", tmp_path / "again")
    assert ran.code == 0, ran.err
    assert config_of(tmp_path / "again")["data"] == str(shades.resolve())


def test_run_folder_and_resume_settings_are_not_repeated():
    saved = {"out": "a", "exp_id": 3, "resume": "auto", "overwrite": True, "epochs": 7}
    assert repeat(PretrainConfig(), "c.json", saved, "pretrain", ()) == PretrainConfig(epochs=7)
    assert {"out", "resume", "overwrite"} <= set(NOT_REPEATED)


def test_a_probe_is_repeated(ssltool, original, shades, tmp_path):
    probe = ["lincls", "--device", "cpu"]
    first = ssltool(*probe, shades, "--pretrained", original / "checkpoint.pt", "--epochs", 2, "-o", tmp_path / "a")
    assert first.code == 0, first.err
    again = ssltool(*probe, "--config", tmp_path / "a", "-o", tmp_path / "b", "--json")
    assert again.code == 0, again.err
    records = [(tmp_path / name / "metrics.jsonl").read_text() for name in "ab"]
    losses = [[json.loads(line)["loss"] for line in text.splitlines()] for text in records]
    assert losses[0] == losses[1] and len(losses[0]) == 2
    assert different(tmp_path / "a", tmp_path / "b") == set()


@pytest.mark.parametrize("stage", ["finetune", "scan"])
def test_settings_of_other_training_stages_are_repeated(ssltool, stage, original, shades, tmp_path):
    short = {"finetune": ["--epochs", 1, "-b", 16], "scan": ["--step", "mine", "--neighbours", 3]}[stage]
    flags = [shades, "--pretrained", original / "checkpoint.pt", "--device", "cpu", *short]
    first = ssltool(stage, *flags, "-o", tmp_path / "a")
    assert first.code == 0, first.err
    again = ssltool(stage, "--config", tmp_path / "a", "-o", tmp_path / "b")
    assert again.code == 0, again.err
    assert different(tmp_path / "a", tmp_path / "b") == set()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "JSON"),
        ("[1, 2]", "settings"),
        ('{"epochz": 2}', "epochs"),
        ('{"epochs": "two"}', "epochs"),
        ('{"epochs": 2.5}', "epochs"),
        ('{"wandb": 1}', "wandb"),
        ('{"lr": null}', "lr"),
        ('{"epochs": 0}', "epochs is 0"),
        ('{"strategy": "later"}', "strategy"),
        ('{"method": "simsiam", "method_options": {"x": 1}}', "'x'"),
        ('{"identity": {}, "origin": {}}', "lincls"),
        ('{"stage": "finetune"}', "finetune"),
    ],
)
def test_a_file_of_another_kind_is_an_error_of_one_line(ssltool, tmp_path, text, named):
    file = tmp_path / "settings.json"
    file.write_text(text)
    ran = ssltool("pretrain", "--config", file, "-o", tmp_path / "run", "--device", "cpu")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith("error: ") and str(file) in ran.err and named in ran.err.replace(str(file), "")
    assert not (tmp_path / "run").exists()


def test_a_missing_file_is_an_error_of_one_line(ssltool, tmp_path):
    ran = ssltool("pretrain", "--config", tmp_path / "none.json")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1) and "none.json" in ran.err
