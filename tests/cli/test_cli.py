"""The command line as a whole: help, spelling, the paper's lines, what goes to which stream, and light imports."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import ssltool as package
from helpers import TINY
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.cli import COMMANDS
from ssltool.cli.flags import Setting
from ssltool.errors import SSLToolError, UsageError

SIMSIAM = (
    "pretrain -a resnet18 --fix-pred-lr --epochs 100 --workers 10 -b 256 --dataset_type imagenet_train DIR "
    "--gpu 0 --seed 10"
)
ORDER = "--incremental_idx_path autolearn/simsiam/incremental_imagenet_ordering.npy"
SAVE = "save-reprs -a resnet18 --batch-size 1024 --gpu 0 --exp_id 1 --data DIR --pretrained checkpoint_0099.pth.tar"

ROOT = Path(package.__file__).parents[1]

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


def test_help_lists_every_command_with_a_line(ssltool):
    ran = ssltool("--help")
    assert ran.code == 0
    stages = {"pretrain", "save-reprs", "knn", "lincls", "collapse", "finetune", "scan"}
    stages |= {"neighbours", "duplicates", "outliers", "table", "cache"}
    others = {"methods", "diagnose", "rank", "plot", "watch", "report", "inspect", "export", "doctor"}
    assert set(COMMANDS) == stages | others
    lines = {line.strip() for line in ran.out.splitlines()}
    for name, summary in COMMANDS.items():
        assert any(line.startswith(f"{name} ") and line.endswith(summary) for line in lines), name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_an_example(ssltool, name):
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
def test_every_option_has_a_help_text(name):
    options = [p for p in command(name).params if isinstance(p, click.Option) and not p.hidden]
    assert options
    assert [option.name for option in options if not option.help] == []


def words(text: str) -> set[str]:
    return set(re.findall(r"-[\w-]+", text))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_all_shows_every_option(ssltool, name):
    shown = words(ssltool(name, "--help-all").out)
    options = [p for p in command(name).params if isinstance(p, click.Option) and not p.hidden]
    assert [opt for option in options for opt in option.opts if opt not in shown] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_at_most_35_options_and_mentions_help_all(ssltool, name):
    shown = [line for line in ssltool(name, "--help").out.splitlines() if re.match(r"  -", line)]
    every = [line for line in ssltool(name, "--help-all").out.splitlines() if re.match(r"  -", line)]
    assert len(shown) <= 35
    assert len(shown) < len(every)  # --plugin at least


def test_help_leaves_out_advanced_options_and_the_papers_names(ssltool):
    options = [p for p in command("pretrain").params if isinstance(p, Setting)]
    hidden = {opt for p in options for opt in (p.opts if p.advanced or p.alias else p.aliases)}
    assert {"--lars-trust", "--alg", "--nnsiam", "--moco-dim", "--gpu", "--wd", "--learning-rate", "-t"} <= hidden
    shown = words(ssltool("pretrain", "--help").out)
    assert not shown & hidden
    assert {"--lr", "--weight-decay", "--dim", "--method", "--epochs", "--help-all"} <= shown


@pytest.mark.parametrize("name", COMMANDS)
def test_hidden_options_of_the_paper_are_in_the_page_that_the_help_names(ssltool, name):
    options = [p for p in command(name).params if isinstance(p, Setting)]
    aliases = {opt for p in options for opt in (p.opts if p.alias else p.aliases)}
    shown = ssltool(name, "--help").out
    assert ("docs/paper.md" in shown) == bool(aliases)
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8").replace("_", "-")
    assert sorted(aliases - words(page)) == []


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_h_is_help(ssltool, name):
    words = [] if name is None else [name]
    short, long = ssltool(*words, "-h"), ssltool(*words, "--help")
    assert (short.code, short.out) == (0, long.out)


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("pretrian", "pretrain"),
        ("save-repr", "save-reprs"),
        ("pretrain --epoch 3", "--epochs"),
        ("pretrain --batchsize 3", "--batch-size"),
    ],
)
def test_a_misspelled_command_or_option_suggests_the_right_one(ssltool, line, near):
    ran = ssltool(*line.split())
    assert (ran.code, ran.out) == (2, "") and near in ran.err.splitlines()[-1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_json_option(name):
    assert any("--json" in option.opts for option in command(name).params)


@pytest.mark.parametrize("line", PAPER_LINES)
def test_the_command_lines_of_the_papers_readme_parse(line):
    assert parse(line)


def test_a_command_line_of_the_paper_has_the_settings_that_it_names():
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
def test_flags_may_have_underscores_or_hyphens(flag):
    assert parse(f"pretrain {flag} 16")["image_size"] == 16


def test_commands_may_have_underscores_or_hyphens(ssltool):
    one, other = (ssltool(name, "--help").out.splitlines() for name in ("save_reprs", "save-reprs"))
    assert one[1:] == other[1:] and len(one) > 10


def test_values_keep_their_underscores():
    assert parse("pretrain -a resnet18_w8 --exp-name my_run")["exp_name"] == "my_run"
    assert parse("pretrain -a resnet18_w8")["arch"] == "resnet18_w8"


@pytest.mark.parametrize("name", ["pretrain", "lincls", "save-reprs"])
def test_data_given_twice_is_a_usage_error(ssltool, tmp_path, name):
    ran = ssltool(name, tmp_path, "--data", tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert "DATA" in ran.err.splitlines()[-1] and "--data" in ran.err.splitlines()[-1]


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
    ("line", "named"),
    [
        ("pretrain --lr 0", "--lr"),
        ("pretrain --crop-min 2", "--crop-min"),
        ("pretrain --arch resnet19", "resnet19"),
        ("pretrain --method simsaim", "simsaim"),
        ("pretrain --set x=1", "'x'"),
        ("pretrain --set stop_grad=maybe", "stop_grad"),
        ("pretrain --set stop_grad", "stop_grad"),
        ("pretrain --set dim=8 --dim 8", "dim"),
        ("pretrain --dim 8 --moco-dim 8", "--moco-dim"),
        ("pretrain --method distill", "--set teacher"),
        ("pretrain --method distill --recipe cifar", "distill"),
        ("pretrain --config config.json --recipe cifar", "--recipe"),
        ("pretrain --chunk-size 3", "--chunk-size"),
        ("pretrain --epochs 10 --warmup-epochs 10", "--warmup-epochs"),
        ("pretrain --epochs 10 --n-rounds 3 --strategy current", "--n-rounds"),
        ("pretrain --epochs 10 --start-epoch 10 --resume run", "--start-epoch"),
        ("pretrain -a vit_small --stem small", "--stem"),
        ("pretrain -a resnet18 --stop-grad-conv1", "--stop-grad-conv1"),
        ("pretrain --out run --exp-name run", "--exp-name"),
        ("pretrain --device cpu --gpu 0", "--gpu"),
        ("pretrain --dist-backend gloo", "--dist-backend"),
        ("pretrain --dataset-type cifar10", "--dataset-type"),
        ("pretrain --plugin no_such_module", "no_such_module"),
        ("save-reprs", "--pretrained"),
        ("save-reprs --pretrained random", "-a"),
        ("save-reprs --pretrained random -a resnet18 --random", "--random"),
        ("save-reprs --pretrained a.pt --format npy --dtype bf16", "--format"),
        ("save-reprs --pretrained a.pt --format npy --out a.pt", "--format"),
        ("save-reprs --pretrained a.pt --split both --out a.pt", "--split"),
        ("save-reprs --pretrained a.pt --views 2 --pool none", "--views"),
        ("save-reprs --pretrained a.pt --exp-id 3 --out a.pt", "--exp-id"),
        ("knn", "--folder"),
        ("knn a.pt", "--folder"),
        ("knn a.pt b.pt -k 0", "-k"),
        ("knn a.pt b.pt --temperature 1", "--temperature"),
        ("knn a.pt b.pt --out b.csv", "--out"),
        ("knn a.pt b.pt --select-k holdout", "--select-k"),
        ("lincls --pretrained a.pt --lars --optimizer sgd", "--lars"),
        ("lincls --pretrained a.pt --lr-sweep 1,x", "--lr-sweep"),
        ("lincls --pretrained a.pt --lr 1 --lr-sweep 1,2", "--lr"),
        ("lincls --evaluate", "--evaluate"),
        ("finetune --pretrained a.pt --scratch-lr 1", "--scratch-lr"),
        ("finetune --pretrained random -a resnet18 --from-scratch", "--from-scratch"),
        ("finetune --pretrained a.pt --warmup-epochs 30", "--warmup-epochs"),
        ("scan --step mine --lr 1", "--lr"),
        ("collapse a.pt --metrics acu", "acu"),
        ("collapse a.pt --plot a.bmp", "--plot"),
        ("collapse a.pt --subsample many", "--subsample"),
        ("collapse a.pt --threshold partial=1", "partial"),
        ("collapse a.pt --threshold partial_rank=much", "partial_rank"),
        ("collapse a.pt --bootstrap 1", "--bootstrap"),
        ("collapse a.pt --merge", "--merge"),
        ("rank run --by acu", "acu"),
        ("rank run --by auc,rankme", "--by"),
        ("rank run --fit a.csv", "--fit"),
        ("rank run --out a.txt", "--out"),
        ("rank run --features auc", "--features"),
        ("rank run --probes b", "--probes"),
        ("plot curves run", "--out"),
        ("plot curves run -o a.gif", "--out"),
        ("plot curves run -o a.png --rows 3", "--rows"),
        ("plot views a b -o a.png", "views"),
        ("report run -o a.pdf", "--out"),
        ("inspect", "file"),
        ("export a.pt --to simsiam -o a.safetensors", "--out"),
        ("methods vicrge", "vicreg"),
    ],
)
def test_a_mistake_in_the_settings_is_a_usage_error_and_writes_nothing(ssltool, tmp_path, monkeypatch, line, named):
    monkeypatch.chdir(tmp_path)
    ran = ssltool(*line.split())
    assert (ran.code, ran.out) == (2, "")
    usage, *_, message = ran.err.splitlines()
    assert usage.startswith(f"Usage: ssltool {line.split()[0]}") and message.startswith("Error: ") and named in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--multiprocessing-distributed"], "torchrun --nproc-per-node"),
        (["--multiprocessing_distributed"], "torchrun --nproc-per-node"),
        (["--dist-url", "tcp://localhost:10001"], "torchrun"),
        (["--world-size", "1"], "torchrun"),
        (["--rank", "0"], "torchrun"),
        (["--no-resume"], "--resume"),
        (["--teacher-arch", "resnet50"], "teacher's checkpoint"),
        (["--teacher-repr-path", "train.pt"], "running means"),
    ],
)
def test_flags_of_the_paper_that_are_not_needed_are_refused_with_a_reason(ssltool, flags, reason):
    ran = ssltool("pretrain", *flags)
    assert (ran.code, ran.out) == (2, "") and ran.err.startswith("Usage: ssltool pretrain")
    assert flags[0].replace("_", "-") in ran.err and reason in ran.err


def test_hidden_flags_are_not_in_the_help(ssltool):
    assert "--dist-url" not in ssltool("pretrain", "--help").out


def test_pretrain_prints_its_result_on_stdout_and_progress_on_stderr(ssltool, tmp_path):
    flags = [*TINY, "--epochs", 1, "--steps-per-epoch", 1, "-b", 16, "--device", "cpu"]
    run = tmp_path / "run"
    ran = ssltool("pretrain", *flags, "-o", run, "--json")
    document = ran.json
    (images,) = document.pop("found")
    assert document == {"run": str(run), "checkpoint": str(run / "checkpoint.pt")}
    assert (images["layout"], images["images"], images["skipped"]) == ("bundled", 8000, {})
    assert "epoch 1/1: loss" in ran.err and "DATA" in ran.err
    assert ssltool("pretrain", *flags, "-o", tmp_path / "other").out == f"{tmp_path / 'other'}\n"


def test_an_error_of_a_stage_is_one_line_and_exit_code_1(ssltool, monkeypatch):
    def fail(*args: object) -> None:
        raise SSLToolError("what is wrong; what to do")

    monkeypatch.setattr("ssltool.stages.pretrain.run", fail)
    ran = ssltool("pretrain")
    assert (ran.code, ran.out, ran.err) == (1, "", "error: what is wrong; what to do\n")


def test_a_usage_error_of_a_stage_has_clicks_form_and_exit_code_2(ssltool, monkeypatch):
    def fail(*args: object) -> None:
        raise UsageError("what is wrong; what to do")

    monkeypatch.setattr("ssltool.stages.pretrain.run", fail)
    ran = ssltool("pretrain")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage: ssltool pretrain") and ran.err.endswith("\nError: what is wrong; what to do\n")


def test_an_unknown_name_in_a_checkpoint_is_an_error_of_the_file_not_of_usage(ssltool, trained, tmp_path):
    checkpoint = Checkpoint.load(trained / "checkpoint.pt")
    path = tmp_path / "odd.pt"
    dataclasses.replace(checkpoint, config=checkpoint.config | {"method": "simsaim"}).save(path)
    ran = ssltool("save-reprs", "--pretrained", path, "-o", tmp_path / "r.pt", "--device", "cpu")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith("error: ") and str(path) in ran.err and "simsaim" in ran.err


def test_an_unknown_name_in_a_run_folder_is_an_error_of_the_file_not_of_usage(ssltool, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"strategy": "later"}))
    ran = ssltool("plot", "schedule", tmp_path / "run", "-o", tmp_path / "a.png")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert str(file) in ran.err and "later" in ran.err and not (tmp_path / "a.png").exists()


def test_an_unexpected_exception_is_not_turned_into_an_error_message(ssltool, monkeypatch):
    def fail(*args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("ssltool.stages.pretrain.run", fail)
    with pytest.raises(ZeroDivisionError):
        ssltool("pretrain")


def test_the_command_line_and_its_help_do_not_import_torch():
    program = (
        "import importlib, sys, ssltool.cli as cli\n"
        "for name in cli.COMMANDS: importlib.import_module('ssltool.cli.' + name.replace('-', '_'))\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'scipy', 'pandas', 'matplotlib', 'PIL', 'tqdm'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize("name", ["methods", "knn"])
def test_ctrl_c_ends_every_command_with_130(monkeypatch, ssltool, name):
    def run(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module(f"ssltool.stages.{name}"), "run", run)
    stopped = ssltool(*name.split(), *{"knn": ["a.pt", "b.pt"]}.get(name, []))
    assert (stopped.code, stopped.out) == (130, "") and len(stopped.err.splitlines()) == 1
