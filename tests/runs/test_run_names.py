"""The automatic names and numbers of run folders."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers import TINY, usage_message
from ssltool.config import PretrainConfig
from ssltool.runs.resume import pretrain_folder, pretrain_name
from ssltool.runs.run_paths import run_path, with_number

SHORT = [*TINY, "--epochs", "1", "--steps-per-epoch", "1", "-b", "4", "--monitor-every", "0", "--device", "cpu"]


def test_the_defaults_keep_the_name_of_earlier_versions():
    assert pretrain_name(PretrainConfig(arch="resnet18", strategy="current")) == "simsiam-resnet18-current"


@pytest.mark.parametrize(
    ("settings", "end"),
    [
        ({"lr": 0.1, "seed": 11}, "lr0.1-seed11"),
        ({"stem": "small-stride2"}, "stem-small-stride2"),
        ({"fix_pred_lr": True}, "fix-pred-lr"),
        ({"options": ("fix_pred_lr=true",)}, "fix-pred-lr"),
        ({"zero_init_residual": False}, "no-zero-init-residual"),
        ({"options": ("stop_grad=false", "dim=64")}, "no-stop-grad-dim64"),
        ({"dim": 64}, "dim64"),
        ({"data": "/data/my birds!"}, "data-my-birds"),
        ({"precision": "bf16"}, "precision-bf16"),
        ({"weight_decay": 1e-5}, "weight-decay1e-05"),
    ],
)
def test_a_name_ends_in_what_differs_from_the_defaults(settings, end):
    assert pretrain_name(PretrainConfig(arch="resnet18", **settings)) == f"simsiam-resnet18-iid-{end}"


def test_what_does_not_change_a_run_is_not_named():
    same = {"workers": 3, "device": "cpu", "print_freq": 1, "save_every": 2, "resume": "auto", "monitor_every": 0}
    assert pretrain_name(PretrainConfig(**same)) == pretrain_name(PretrainConfig())


def test_long_names_are_bounded_safe_and_distinct():
    many = {"data": "x" * 200, "lr": 0.123456789, "final_lr": 0.1, "weight_decay": 1e-3, "blur_p": 0.25, "gray_p": 0.1}
    names = {pretrain_name(PretrainConfig(arch="resnet18", seed=seed, **many)) for seed in range(20)}
    assert len(names) == 20
    assert all(len(name) <= 120 and re.fullmatch(r"[A-Za-z0-9._+-]+", name) for name in names)


def test_a_shell_loop_over_a_setting_gives_a_folder_for_each_value(ssltool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        assert ssltool("pretrain", *SHORT, "--seed", seed).code == 0
    assert len(list(Path("logs").iterdir())) == 2
    assert "already contains a run" in ssltool("pretrain", *SHORT, "--seed", 2).err


def test_auto_counts_up_from_the_largest_number(ssltool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs" / "mine_0006").mkdir(parents=True)
    (tmp_path / "logs" / "mine_extra_0009").mkdir()
    flags = ["pretrain", *SHORT, "--exp-name", "mine", "--exp-id", "auto"]
    assert json.loads(ssltool(*flags, "--dry-run", "--json").out)["run"] == "logs/mine_0007"
    for number in (7, 8):
        ran = ssltool(*flags, "--json")
        assert ran.json["run"] == f"logs/mine_{number:04d}"
        assert json.loads(Path(ran.json["run"], "config.json").read_text())["exp_id"] == number


def test_processes_that_start_at_once_get_different_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: with_number(PretrainConfig(exp_id="auto"), "run").exp_id, range(64)))
    assert sorted(found) == list(range(64))


def test_a_run_that_fails_leaves_no_folder(ssltool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = ssltool("pretrain", tmp_path / "missing", *SHORT, "--exp-id", "auto")
    assert ran.code == 1 and not list(tmp_path.glob("logs/*"))


def test_auto_contradicts_resuming_and_overwriting(ssltool):
    flags = ["pretrain", *SHORT, "--exp-id", "auto"]
    assert "give the number of the run" in usage_message(ssltool(*flags, "--resume", "auto"))
    assert "--overwrite does nothing" in usage_message(ssltool(*flags, "--overwrite"))
    said = usage_message(ssltool("pretrain", *SHORT, "--exp-id", "next"))
    assert "'next'" in said and "number" in said and "auto" in said


def test_a_run_of_an_earlier_version_is_found_by_resume_auto(ssltool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ssltool("pretrain", *SHORT, "-o", "logs/simsiam-resnet18_w8-iid_0000").code == 0
    ran = ssltool("pretrain", *SHORT, "--resume", "auto", "--json")
    assert ran.json["run"] == "logs/simsiam-resnet18_w8-iid_0000"
    other = ssltool("pretrain", *SHORT, "--seed", 3, "--resume", "auto", "--json")
    assert other.json["run"].startswith("logs/simsiam-resnet18_w8-iid-epochs1-batch-size4-seed3-")


def test_python_callers_get_the_same_checks():
    from ssltool.errors import UsageError

    assert run_path(PretrainConfig(exp_id=3), "made") == Path("logs/made_0003")
    with pytest.raises(UsageError, match="a number or auto"):
        PretrainConfig(exp_id="next")
    assert pretrain_folder(PretrainConfig(out="here")).path == Path("here")
