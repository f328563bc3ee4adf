"""The command line as a whole: help, spelling, the paper's lines, what goes to which stream, and light imports."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys

import click
import pytest

from helpers import TINY
from ssltool.cli import COMMANDS
from ssltool.errors import SSLToolError

SIMSIAM = (
    "pretrain -a resnet18 --fix-pred-lr --epochs 100 --workers 10 -b 256 --dataset_type imagenet_train DIR "
    "--gpu 0 --seed 10"
)
ORDER = "--incremental_idx_path autolearn/simsiam/incremental_imagenet_ordering.npy"
SAVE = "save-reprs -a resnet18 --batch-size 1024 --gpu 0 --exp_id 1 --data DIR --pretrained checkpoint_0099.pth.tar"

PAPER_LINES = [
    f"{SIMSIAM} --exp_name rn18-imagenet-multiepoch --exp_id 1",
    f"{SIMSIAM} {ORDER} --exp_name rn18-imagenet-singlepass --exp_id 2 --strategy current",
    f"{SIMSIAM} {ORDER} --exp_name rn18-imagenet-cumulative --exp_id 3 --strategy accumulate",
    f"{SIMSIAM} {ORDER} --exp_name rn18-imagenet-last20 --exp_id 4 --strategy last --chunk_size 20",
    f"{SIMSIAM} --exp_name rn18-imagenet-multiepoch --exp_id 5 --resume checkpoint_0039.pth.tar",
    "lincls -a resnet18 --gpu 0 --lars --dataset_type imagenet --workers 9 -b 1024 DIR "
    "--exp_name resnet18_lp --exp_id 1 --pretrained checkpoint_0099.pth.tar",
    f"{SAVE} --dataset_type imagenet_train",
    f"{SAVE} --dataset_type imagenet_val",
    "knn --folder data/resnet18_exp1/imagenet --source train_reprs_e0.pt --target val_reprs_e0.pt --metric cos",
    "collapse data/resnet18_exp1/imagenet/train_reprs_e0.pt --type svd",
]
"""The README of the collapse paper's code, with its programs and paths replaced."""


def command(name: str) -> click.Command:
    found: click.Command = importlib.import_module(f"ssltool.cli.{name.replace('-', '_')}").command
    return found


def parse(line: str) -> dict[str, object]:
    """The values that click reads from a command line, before the command runs."""
    name, *arguments = shlex.split(line)
    return command(name).make_context(name, arguments).params


def test_help_lists_the_commands_with_a_line_each(ssltool):
    ran = ssltool("--help")
    assert ran.code == 0
    stages = {"pretrain", "save-reprs", "knn", "lincls", "collapse", "finetune", "scan"}
    assert set(COMMANDS) == stages | {"methods", "rank", "plot", "report", "inspect", "export"}
    lines = {line.strip() for line in ran.out.splitlines()}
    for name, summary in COMMANDS.items():
        assert any(line.startswith(f"{name} ") and line.endswith(summary) for line in lines), name


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_an_example_line(ssltool, name):
    ran = ssltool(name, "--help")
    examples = [line.strip() for line in ran.out.splitlines() if line.strip().startswith(f"ssltool {name} ")]
    assert (ran.code, ran.err) == (0, "")
    assert examples


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_a_command_parse(ssltool, name):
    lines = [line.strip() for line in ssltool(name, "--help").out.splitlines()]
    for line in lines:
        if line.startswith(f"ssltool {name} "):
            parse(line.removeprefix("ssltool "))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name):
    options = [p for p in command(name).params if isinstance(p, click.Option) and not p.hidden]
    assert options
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_shown_in_the_help(ssltool, name):
    shown = ssltool(name, "--help").out
    options = [p for p in command(name).params if isinstance(p, click.Option) and not p.hidden]
    assert [option.opts[-1] for option in options if option.opts[-1] not in shown] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_json_on_demand(name):
    assert any("--json" in option.opts for option in command(name).params)


@pytest.mark.parametrize("line", PAPER_LINES)
def test_line_of_the_papers_readme_parses(line):
    assert parse(line)


def test_paper_line_means_what_it_says():
    values = parse(PAPER_LINES[3])
    wanted = {
        "arch": "resnet18",
        "fix_pred_lr": True,
        "epochs": 100,
        "workers": 10,
        "batch_size": 256,
        "dataset_type": "imagenet_train",
        "data_dir": "DIR",
        "gpu": 0,
        "seed": 10,
        "incremental_idx_path": "autolearn/simsiam/incremental_imagenet_ordering.npy",
        "exp_name": "rn18-imagenet-last20",
        "exp_id": 4,
        "strategy": "last",
        "chunk_size": 20,
    }
    assert {name: values[name] for name in wanted} == wanted


@pytest.mark.parametrize("flag", ["--image-size", "--image_size"])
def test_underscore_and_hyphen_are_one_in_flags(flag):
    assert parse(f"pretrain {flag} 16")["image_size"] == 16


def test_underscore_and_hyphen_are_one_in_commands(ssltool):
    one, other = (ssltool(name, "--help").out.splitlines() for name in ("save_reprs", "save-reprs"))
    assert one[1:] == other[1:] and len(one) > 10


def test_values_keep_their_underscores():
    assert parse("pretrain -a resnet18_w8 --exp-name my_run")["exp_name"] == "my_run"
    assert parse("pretrain -a resnet18_w8")["arch"] == "resnet18_w8"


@pytest.mark.parametrize("name", ["pretrain", "lincls", "save-reprs"])
def test_data_given_twice_is_a_usage_error(ssltool, tmp_path, name):
    ran = ssltool(name, tmp_path, "--data", tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert "DATA is given twice, as an argument and as --data" in ran.err


@pytest.mark.parametrize(
    "line",
    [
        "pretrian",
        "pretrain --no-such-flag",
        "pretrain --epochs many",
        "pretrain --epochs 0",
        "pretrain --strategy later",
    ],
)
def test_misuse_is_exit_code_2_with_nothing_on_stdout(ssltool, line):
    ran = ssltool(*line.split())
    assert (ran.code, ran.out) == (2, "") and ran.err.startswith("Usage: ssltool")


@pytest.mark.parametrize(
    ("flags", "mend"),
    [
        (["--multiprocessing-distributed"], "torchrun --nproc-per-node"),
        (["--multiprocessing_distributed"], "torchrun --nproc-per-node"),
        (["--dist-url", "tcp://localhost:10001"], "torchrun"),
        (["--world-size", "1"], "torchrun"),
        (["--rank", "0"], "torchrun"),
        (["--no-resume"], "nothing is resumed without --resume"),
        (["--teacher-arch", "resnet50"], "read from the teacher's checkpoint"),
        (["--teacher-repr-path", "train.pt"], "running means and deviations start at 0 and 1"),
    ],
)
def test_flag_of_the_papers_scripts_that_is_not_needed_says_why(ssltool, flags, mend):
    ran = ssltool("pretrain", *flags)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith(f"error: {flags[0].replace('_', '-')} is not a flag of ssltool") and mend in ran.err


def test_hidden_flags_are_not_in_the_help(ssltool):
    assert "--dist-url" not in ssltool("pretrain", "--help").out


def test_result_of_pretrain_is_on_stdout_and_talk_on_stderr(ssltool, tmp_path):
    flags = [*TINY, "--epochs", 1, "--steps-per-epoch", 1, "-b", 16, "--device", "cpu"]
    run = tmp_path / "run"
    ran = ssltool("pretrain", *flags, "-o", run, "--json")
    assert ran.json == {"run": str(run), "checkpoint": str(run / "checkpoint.pt")}
    assert "epoch 1/1: loss" in ran.err and "no DATA was given" in ran.err
    assert ssltool("pretrain", *flags, "-o", tmp_path / "other").out == f"{tmp_path / 'other'}\n"


def test_error_of_a_stage_is_one_line_and_exit_code_1(ssltool, monkeypatch):
    def fail(*args: object) -> None:
        raise SSLToolError("what is wrong; what to do")

    monkeypatch.setattr("ssltool.stages.pretrain.run", fail)
    ran = ssltool("pretrain")
    assert (ran.code, ran.out, ran.err) == (1, "", "error: what is wrong; what to do\n")


def test_bug_is_not_dressed_up_as_the_users_mistake(ssltool, monkeypatch):
    def fail(*args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("ssltool.stages.pretrain.run", fail)
    with pytest.raises(ZeroDivisionError):
        ssltool("pretrain")


def test_command_line_and_its_help_load_nothing_heavy():
    program = (
        "import importlib, sys, ssltool.cli as cli\n"
        "for name in cli.COMMANDS: importlib.import_module('ssltool.cli.' + name.replace('-', '_'))\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'scipy', 'pandas', 'matplotlib', 'PIL', 'tqdm'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=True)
    assert ran.stdout == "[]\n"
