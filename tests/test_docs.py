"""The documentation is correct: its command lines parse, marked blocks run, and the generated pages are up to date.

A fenced ``bash`` block is executed if the line before it is the comment ``<!-- run -->``. The marked blocks of a page
run in order, in one temporary folder, so that later ones read the files of earlier ones; they may contain only
``ssltool`` lines. ``SHRINK`` appends flags to a command so that it ends within seconds (the last value of a repeated
flag counts).
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import click
import numpy as np
import pytest

from helpers import records
from ssltool.cli import COMMANDS, cli
from ssltool.config import (
    CacheConfig,
    CollapseConfig,
    CollapseLayersConfig,
    DiagnoseConfig,
    DoctorConfig,
    DuplicatesConfig,
    ExportConfig,
    FinetuneConfig,
    InspectConfig,
    KnnConfig,
    LinclsConfig,
    NeighboursConfig,
    OutliersConfig,
    PlotConfig,
    PretrainConfig,
    RankConfig,
    ReportConfig,
    SaveReprsConfig,
    ScanConfig,
    TableConfig,
    WatchConfig,
)
from ssltool.diagnosis.metrics import METRICS
from ssltool.diagnosis.verdict import Thresholds
from ssltool.errors import SSLToolError
from ssltool.methods import METHODS, Entry
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.pretrain.prepare import prepare

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
CONFIGS = {
    "cache": CacheConfig,
    "save-reprs": SaveReprsConfig,
    "knn": KnnConfig,
    "neighbours": NeighboursConfig,
    "duplicates": DuplicatesConfig,
    "outliers": OutliersConfig,
    "lincls": LinclsConfig,
    "finetune": FinetuneConfig,
    "scan": ScanConfig,
    "collapse": CollapseConfig,
    "diagnose": DiagnoseConfig,
    "table": TableConfig,
    "rank": RankConfig,
    "plot": PlotConfig,
    "report": ReportConfig,
    "watch": WatchConfig,
    "inspect": InspectConfig,
    "export": ExportConfig,
    "doctor": DoctorConfig,
}
SHRINK = {
    "pretrain": "-a resnet18_w8 --image-size 16 --dim 16 --epochs 2 --steps-per-epoch 3 -b 32 --device cpu",
    "save-reprs": "--idx-path few.npy --device cpu",
    "knn": "--device cpu",
    "lincls": "--idx-path few.npy --epochs 1 -b 250 --device cpu",
}
FENCE = re.compile(r"(?P<mark><!-- run -->\n)?^```bash\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced ``bash`` block of a page."""

    page: Path
    body: str
    run: bool


def blocks(page: Path) -> list[Block]:
    found = FENCE.finditer(page.read_text(encoding="utf-8"))
    return [Block(page, match["body"], match["mark"] is not None) for match in found]


def commands(text: str) -> list[list[str]]:
    """The arguments of every ``ssltool`` in a piece of bash: at the start of a line, or after another program."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for match in re.finditer(r"(?:^|srun |exec |-m )ssltool (?P<rest>(?:'[^']*'|[^'])*)", line):
            found.append(shlex.split(match["rest"], comments=True))
    return found


LINES = [
    (page.name, arguments)
    for page in PAGES
    if page.name != "plugins.md"  # test_plugins.py runs its commands, with its plug-in
    for block in blocks(page)
    for arguments in commands(block.body)
]
HELP_LINES = [
    shlex.split(line)[1:]
    for line in (DOCS / "cli.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("  ssltool ")
]


class Opened(Exception):
    """The images would be opened next."""


def parse(arguments: list[str]) -> None:
    """Parses a command line as the program does and checks its settings, executing nothing."""
    name = arguments[0].replace("_", "-")
    assert name in COMMANDS, f"there is no command {name}"
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    context = command.make_context(name, arguments[1:])
    values = dict(context.params)
    if name == "methods":
        assert values["name"] is None or METHODS[values["name"]]
    elif name == "pretrain":
        patched = mock.patch.multiple
        with (
            patched("ssltool.stages.pretrain", run=prepare),
            patched("ssltool.stages.pretrain", plan=prepare),
            patched("ssltool.stages.pretrain.prepare", open_dataset=mock.Mock(side_effect=Opened)),
            patched("ssltool.stages.pretrain.prepare", open_stream=mock.Mock(side_effect=Opened)),
            pytest.raises(Opened),
        ):
            command.invoke(context)
    else:
        assert values.get("data_dir") is None or values["data"] is None
        settings = CollapseLayersConfig if values.get("layers") else CONFIGS[name]
        settings(**{f.name: values[f.name] for f in dataclasses.fields(settings)}).check()


@pytest.mark.parametrize(("page", "arguments"), LINES, ids=[f"{page}: {' '.join(a)[:60]}" for page, a in LINES])
def test_command_line_in_the_documentation_parses(page, arguments):
    parse(arguments)


@pytest.mark.parametrize("arguments", HELP_LINES, ids=[" ".join(a)[:60] for a in HELP_LINES])
def test_example_in_a_help_text_parses(arguments):
    parse(arguments)


def test_every_command_is_shown_in_a_page_and_in_its_help():
    for lines in ([a for _, a in LINES], HELP_LINES):
        assert {a[0] for a in lines} == set(COMMANDS)


def test_a_wrong_line_would_be_noticed():
    for line in (
        "knn a.pt b.pt --no-such-flag",
        "pretrain --chunk-size 3",
        "pretrain --epochs 0",
        "pretrain --method byol --set queue=8",
        "pretrain --method distill --recipe cifar",
        "pretrain --alg moco --nnsiam",
        "lincls --pretrained a.pt --c 3",
        "rank run --features auc",
        "methods vicrge",
        "nothing",
    ):
        with pytest.raises((click.UsageError, SSLToolError, AssertionError)):
            parse(shlex.split(line))


RUNNABLE = [page for page in PAGES if any(block.run for block in blocks(page))]


@pytest.mark.parametrize("page", RUNNABLE, ids=[page.name for page in RUNNABLE])
def test_marked_blocks_run_through_files(page, tmp_path, monkeypatch, ssltool):
    monkeypatch.chdir(tmp_path)
    np.save("few.npy", np.arange(500))
    out = ""
    for block in blocks(page):
        if not block.run:
            continue
        assert all(line.startswith("ssltool ") for line in block.body.replace("\\\n", " ").splitlines())
        for arguments in commands(block.body):
            done = ssltool(*arguments, *SHRINK.get(arguments[0], "").split())
            assert done.code == 0, f"{page.name}: {' '.join(arguments)}: {done.err}"
            if "--json" in arguments:
                assert isinstance(done.json, dict)
            out += done.out
    assert (tmp_path / "spectrum.png").stat().st_size > 10_000
    assert (tmp_path / "probe" / "probe.pt").exists()
    assert "accuracy@1" in out and "effective_rank" in out


def test_generated_pages_are_what_the_commands_and_methods_say():
    done = subprocess.run([sys.executable, str(DOCS / "make_cli.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_has_a_section():
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    titles = ["Shell completion", "ssltool"]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [*titles, *(f"ssltool {name}" for name in COMMANDS)]


def test_every_page_is_in_a_toctree():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL)
    listed = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    assert sorted(listed) == sorted(page.stem for page in DOCS.glob("*.md") if page.stem != "index")


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_every_method_has_a_row_in_its_page_that_says_what_the_registry_says():
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    for name, entry in METHODS.items():
        link = f"[{entry.paper}](https://arxiv.org/abs/{entry.paper})"
        row = f"| [`{name}`](options.md#{name}) | {entry.year} | {link} | {entry.prevents} | {entry.needs} |"
        assert row in page


def test_every_metric_and_threshold_has_a_row_in_its_page():
    rows = re.findall(r"^\| (`[^|]*`) \|", (DOCS / "collapse.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert named == {*METRICS, *(f.name for f in dataclasses.fields(Thresholds))}


def test_the_thresholds_of_the_page_are_the_defaults():
    page = (DOCS / "collapse.md").read_text(encoding="utf-8")
    for names, values in re.findall(r"^\| (`\w+_\w+`(?:, `\w+`)?) \| ([\d., ]+) \|", page, re.MULTILINE):
        for name, value in zip(re.findall(r"\w+", names), values.split(","), strict=True):
            assert getattr(Thresholds(), name) == float(value)


def test_the_method_of_the_architecture_page_trains(monkeypatch, registries, tmp_path):
    """Its code as it stands there, put into the registry as it says."""
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?class Mine\(Method\).*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "ssltool.methods.mine", importlib.import_module("mine"))
    (line,) = re.findall(r'Entry\("\.mine:Mine", 2026, "2601.00001", [^`]*\)', page)
    METHODS.add("mine", eval(" ".join(line.split()), {"Entry": Entry}))
    network = {"arch": "resnet18_w8", "stem": "small-stride2", "image_size": 16, "device": "cpu"}
    schedule = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 16, "out": str(tmp_path / "run")}
    run = pretrain(PretrainConfig(method="mine", options=("dim=8",), **network, **schedule))
    assert [record["step"] for record in records(run)] == [2]


def settings_of_the_benchmark(table: str) -> list[str]:
    """The names in a table of ``benchmarks/method_settings.py``."""
    source = ast.parse((ROOT / "benchmarks" / "method_settings.py").read_text(encoding="utf-8"))
    (value,) = [n.value for n in source.body if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == table]
    assert isinstance(value, ast.Dict)
    return [ast.literal_eval(key) for key in value.keys if key is not None]


def test_the_benchmark_of_the_methods_has_them_all():
    assert set(settings_of_the_benchmark("NAMES")) == {"untrained", "untrained vit", *METHODS}


def test_the_ablations_of_the_benchmark_are_those_of_the_page_and_each_method_has_a_run_without_any():
    runs = [name.split() for name in settings_of_the_benchmark("ABLATIONS")]
    assert {run[0] for run in runs if len(run) == 1} == METHODS.keys() - {"teacher"}  # each regime of it is a study
    measured = {(method, change.partition("=")[0]) for method, *changes in runs for change in changes}
    text = (DOCS / "collapse-on-purpose.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w[\w, ]*) \| (`.*?) \|", text[: text.index("have no such option")], re.MULTILINE)
    listed = {
        (method, option)
        for methods, options in rows
        for method in methods.split(", ")
        for option in re.findall(r"`(\w+)=", options.partition("with")[0])
    }
    assert listed == measured - {("simsiam", "lr")}
