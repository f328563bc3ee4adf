"""Metrics, optimizers, plots and report sections that a plug-in adds with one line each are everywhere at once."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import TINY, same_bits
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.checkpoint_layouts import CHECKPOINT_LAYOUTS, CheckpointLayout
from ssltool.data.layouts import LAYOUTS, DatasetLayout
from ssltool.diagnosis.kinds import KINDS, Kind
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.metrics import METRICS, QUICK, Metric
from ssltool.diagnosis.metrics.of_rows import Directions, mean_cosine
from ssltool.diagnosis.spectrum import singular_values
from ssltool.errors import SSLToolError, UsageError
from ssltool.methods import METHODS, Entry
from ssltool.methods.regularisers import REGULARISERS, Regulariser
from ssltool.models import ARCHITECTURES, Architecture
from ssltool.stages.diagnose.findings import FINDINGS, Search
from ssltool.stages.diagnose.log_formats import LOG_FORMATS, LogFormat
from ssltool.stages.export import TARGETS, Target
from ssltool.stages.export.exported import Plan
from ssltool.stages.report.sections import SECTIONS, Section
from ssltool.training import OPTIMIZERS, OptimizerEntry, optimizers_of
from ssltool.viz import PLOTS, Plot

PLUGIN = """
import torch
from ssltool.diagnosis.metrics import METRICS, Metric
from ssltool.stages.report.sections import SECTIONS, Section
from ssltool.training import OPTIMIZERS, OptimizerEntry
from ssltool.viz import PLOTS, Plot

METRICS.add("toy", Metric(lambda s: float(s.max()), "spectrum", "low", "the largest value", "nowhere"))
OPTIMIZERS.add("toy", OptimizerEntry(lambda groups, lr, weight_decay: torch.optim.SGD(groups, lr)))

def draw(config, out):
    with open(out, "w") as file:
        file.write(f"{config.rows} rows of {len(config.inputs)} inputs")

PLOTS.add("toy", Plot(draw, "anything", "A file of words", ("rows",)))
SECTIONS.add("toy", Section(lambda runs: f"<p>{len(runs)} toys</p>", "Toys"))
"""

SCHEDULE = ["--epochs", 1, "--steps-per-epoch", 2, "-b", 16, "--monitor-every", 0, "--device", "cpu"]


@pytest.fixture
def plugin(registries, tmp_path) -> list[object]:
    """The flags that load a plug-in which adds a ``toy`` of each kind."""
    path = tmp_path / "toys.py"
    path.write_text(PLUGIN)
    return ["--plugin", path]


def gaussian(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def largest(x: torch.Tensor) -> float:
    return float(singular_values(x).max())


def test_names_and_facts_need_neither_torch_nor_numpy():
    modules = "ssltool.diagnosis.metrics, ssltool.training, ssltool.viz"
    modules += ", ssltool.stages.report.sections, ssltool.stages.export"
    program = f"import sys, {modules}; print(sys.modules.keys() & {{'torch', 'numpy', 'matplotlib'}})"
    root = str(Path(sys.modules["ssltool"].__file__).parents[1])
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True)
    assert ran.stdout == "set()\n"


WITH_TARGETS = [METRICS, OPTIMIZERS, PLOTS, REGULARISERS, SECTIONS, TARGETS]


@pytest.mark.parametrize("registry", WITH_TARGETS, ids=lambda one: one.kind)
def test_every_target_can_be_imported_and_a_taken_name_is_refused(registry):
    for name, entry in registry.items():
        assert callable(registry.load(name))
        with pytest.raises(SSLToolError):
            registry.add(name, entry)


def test_the_generated_pages_list_what_a_plugin_adds_to_each_registry(plugin, ssltool):
    """The plug-in adds a metric, an optimizer, a plot and a section; here are the others."""
    assert ssltool("methods", *plugin).code == 0
    METHODS.add("toy", Entry("ssltool.methods.simsiam:SimSiam", 2026, "0000.00000", "nothing", "two views"))
    REGULARISERS.add("toy", Regulariser(lambda rows: rows.square().sum(), "0000.00000", "rows", "0 .."))
    ARCHITECTURES.add("toynet", Architecture(lambda: torch.nn.Flatten(), dim=3 * 8 * 8))
    LAYOUTS.add("toy", DatasetLayout(lambda folder, split, settings: None, files=("toy.npz",)))
    CHECKPOINT_LAYOUTS.add("toy", CheckpointLayout("toy", None, "toy."))
    TARGETS.add("toy", Target(lambda network, path: Plan(lambda: None, ""), "nothing", ".toy"))
    LOG_FORMATS.add("toy", LogFormat(lambda log, loss: None, "toy", "toy.log"))
    KINDS.add("toy", Kind(lambda numbers, thresholds: [], "rows", ("auc", "alpha", "rankme"), "Nothing."))
    FINDINGS.add("toy", Search(lambda series: [], ("toy",), "nothing"))
    path = Path(__file__).parents[1] / "docs" / "make_cli.py"
    spec = importlib.util.spec_from_file_location("make_cli", path)
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    names = pages.names_page()
    assert len(re.findall(r"^\| `toy` \|", names, re.MULTILINE)) == len(pages.TABLES) == 12
    assert "| `toynet` | `toynet` |" in names
    assert "\n## toy\n" in pages.options_page()
    help_texts = pages.cli_page()
    assert re.search(r"auto, bundled, [^;]*, toy,", help_texts.replace("\n", " ").replace("  ", ""))
    assert re.search(r"\|toy[\]}]", help_texts)


def test_a_selection_has_the_entries_that_are_added_later(registries):
    before = list(QUICK)
    METRICS.add("toy", Metric(max, "spectrum", "low", "-", "-"))
    METRICS.add("slow", Metric(max, "pairs", "low", "-", "-"))
    assert list(QUICK) == [*before, "toy"]
    assert "toy" in QUICK and "slow" not in QUICK and len(QUICK) == len(before) + 1
    assert QUICK["toy"] is METRICS["toy"] and QUICK.get("slow") is None
    with pytest.raises(UsageError):
        QUICK["slow"]


def test_a_metric_is_measured_by_collapse(ssltool, plugin, write_reprs):
    x = gaussian(60, 5)
    path = write_reprs("x.pt", x)
    ran = ssltool("collapse", path, *plugin, "--metrics", "toy", "--bootstrap", 3, "--subsample", 20, "--json")
    (found,) = ran.json["files"]
    assert found["metrics"] == {"toy": pytest.approx(largest(x))}
    assert found["intervals"].keys() == {"toy"}
    assert found["subsamples"][0]["toy"] < largest(x)
    assert "the largest value" in ssltool("collapse", path, *plugin).out
    with pytest.raises(UsageError):
        METRICS["toyy"]


@pytest.mark.parametrize(("healthier", "first"), [("low", 0), ("high", 1)])
def test_a_metric_ranks(ssltool, registries, write_reprs, healthier, first):
    METRICS.add("toy", Metric(lambda s: float(s.max()), "spectrum", healthier, "-", "-"))
    paths = [str(write_reprs(f"{name}.pt", scale * gaussian(60, 5))) for name, scale in (("a", 1), ("b", 2))]
    rows = ssltool("rank", *paths, "--by", "toy", "--json").json["rows"]
    assert [row["path"] for row in rows] == [paths[first], paths[1 - first]]
    assert rows[0]["toy"] == pytest.approx(largest((1 + first) * gaussian(60, 5)))


def shape(x: torch.Tensor) -> float:
    return 1000.0 * x.dim() + x.shape[0]


def width(s: torch.Tensor, *, d: int) -> float:
    return 1000.0 * len(s) + d


def rows_and_width(s: torch.Tensor, *, n: int, d: int) -> float:
    return 1000.0 * len(s) + 100 * n + d


@pytest.mark.parametrize(
    ("at", "function", "value"),
    [
        ("spectrum", width, 5020.0),
        ("uncentred spectrum", rows_and_width, 6620.0),
        ("uncentred spectrum", lambda s: float(s[0]), float(torch.linalg.svdvals(gaussian(6, 20).double() + 3)[0])),
        ("spectrum", torch.linalg.vector_norm, float((gaussian(6, 20) - gaussian(6, 20).mean(dim=0)).norm())),
        ("directions", lambda sums: mean_cosine(sums) + sums.rows, mean_cosine(gaussian(6, 20) + 3) + 6),
        ("pairs", shape, 2004.0),
        ("views", shape, 3003.0),
    ],
)
def test_the_input_of_a_metric_follows_from_its_entry(registries, at, function, value):
    METRICS.add("toy", Metric(function, at, "low", "-", "-"))
    x = (gaussian(6, 20) + 3).reshape(3, 2, 20)
    assert measure(x, ("toy",), pair_rows=4).metrics == {"toy": pytest.approx(value)}


def test_a_metric_of_directions_has_the_gram_matrix_where_it_needs_it(registries):
    def squares(sums: Directions) -> float:
        return float(sums.gram.diagonal().sum())

    METRICS.add("toy", Metric(squares, "directions", "low", "-", "-", needs_gram=True))
    assert measure(gaussian(40, 5), ("toy",)).metrics["toy"] == pytest.approx(40)
    METRICS.add("wrong", Metric(squares, "directions", "low", "-", "-"))
    with pytest.raises(SSLToolError, match="needs_gram"):
        measure(gaussian(40, 5), ("wrong",))


def test_an_optimizer_is_a_choice_of_the_stages_that_offer_it(ssltool, registries, plugin):
    for stage in ("pretrain", "finetune", "lincls"):
        assert "|toy]" in ssltool(stage, *plugin, "--help").out
    OPTIMIZERS.add("probe_only", OptimizerEntry(torch.optim.Adagrad, ("lincls",)))
    assert [stage for stage in ("pretrain", "finetune", "lincls") if "probe_only" in optimizers_of(stage)] == ["lincls"]


def test_an_optimizer_trains_with_the_settings_that_it_uses(ssltool, registries, tmp_path):
    OPTIMIZERS.add("toy", OptimizerEntry(torch.optim.SGD, settings={"momentum": "momentum"}))
    for name in ("sgd", "toy"):
        flags = ["--optimizer", name, "--momentum", 0.5]
        assert ssltool("pretrain", *TINY, *SCHEDULE, *flags, "-o", tmp_path / name).code == 0
    sgd, toy = (Checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("sgd", "toy"))
    assert same_bits(sgd.state_dict, toy.state_dict) and same_bits(sgd.optimizer, toy.optimizer)
    ran = ssltool("pretrain", *TINY, *SCHEDULE, "--optimizer", "toy", "--lars-trust", 0.1, "-o", tmp_path / "lars")
    assert ran.code == 2 and "--lars-trust" in ran.err


def test_an_optimizer_trains_the_linear_probe(ssltool, plugin, write_reprs, tmp_path):
    x, y = gaussian(40, 5), torch.arange(40) % 2
    files = [write_reprs("train.pt", x, y), write_reprs("val.pt", x, y, index=torch.arange(40, 80))]
    command = ["lincls", *plugin, "--reprs", *files, "--epochs", 1, "--optimizer", "toy", "-o", tmp_path / "probe"]
    ran = ssltool(*command, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["optimizer"] == "toy"
    ran = ssltool(*command, "--momentum", 0.5)
    assert ran.code == 2 and "--momentum" in ran.err


@pytest.mark.parametrize("stages", [("pretrain", "scan"), ("finetune",)])
def test_an_optimizer_of_no_stage_is_refused(stages):
    with pytest.raises(SSLToolError):
        OptimizerEntry(torch.optim.SGD, stages)


def test_a_plot_is_a_choice_with_a_line_of_help_and_settings_of_its_own(ssltool, plugin, tmp_path):
    out = tmp_path / "toy.svg"
    assert ssltool("plot", *plugin, "toy", "a", "b", "--rows", 2, "-o", out).code == 0
    assert out.read_text() == "2 rows of 2 inputs"
    text = ssltool("plot", "--help").out
    assert "|toy}" in text and "INPUT: anything. A file of words" in text
    ran = ssltool("plot", "toy", "a", "--epoch", 2, "-o", out)
    assert ran.code == 2 and "--epoch" in ran.err


def test_a_plot_of_one_input_refuses_more(ssltool, registries, tmp_path):
    PLOTS.add("toy", Plot(lambda config, out: None, "a file", "-", one_input=True))
    assert ssltool("plot", "toy", "a", "-o", tmp_path / "a.png").code == 0
    assert ssltool("plot", "toy", "a", "b", "-o", tmp_path / "a.png").code == 2


def test_a_section_is_in_the_report_and_its_contents(ssltool, plugin, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("ssltool.stages.report.html.inline_svg", lambda figure, prefix, alt: "<svg></svg>")
    out = tmp_path / "page.html"
    ran = ssltool("report", *plugin, trained, "-o", out, "--size", 40, "--device", "cpu")
    assert ran.code == 0, ran.err
    page = out.read_text(encoding="utf-8")
    assert '<section id="toy"><h2>Toys</h2><p>1 toys</p></section>' in page
    assert '<a href="#toy">Toys</a>' in page


def test_sections_are_in_the_order_of_the_registry(registries):
    SECTIONS.add("toy", Section(lambda runs: "", "Toys"))
    assert list(SECTIONS)[-2:] == ["settings", "toy"]
