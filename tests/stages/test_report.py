"""``ssltool report``: the contents of the page, that it has no external resources, and that it is deterministic."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
import subprocess
import sys
import types
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import records, usage_message
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.load import load_pretrained
from ssltool.cli import cli
from ssltool.config import NetworkSettings, PretrainConfig, ReportConfig, SaveReprsConfig
from ssltool.data.images import open_dataset
from ssltool.diagnosis.metrics.of_spectrum import auc
from ssltool.diagnosis.spectrum import singular_values
from ssltool.errors import SSLToolError
from ssltool.files.writing import to_json
from ssltool.reprs.extract import extract_all
from ssltool.reprs.representations import Representations
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.report.report import _layer, run

pytestmark = pytest.mark.xdist_group("report")  # most tests share one page

SECTIONS = ["verdict", "metrics", "spectra", "training", "map", "neighbours", "views", "schedule", "settings"]
STRANGE = '<b>&"x'
VOID = {"meta", "img", "br", "link", "input", "hr"}
SIZE = 150


class Page(HTMLParser):
    """The elements of a page as (tag, attributes, own text); checks that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[int] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data):
        if self.open:
            self.elements[self.open[-1]][2].append(data)

    def all(self, tag: str, **attributes: str) -> list[tuple[dict[str, str], str]]:
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            (attrs, "".join(text))
            for name, attrs, text in self.elements
            if name == tag and wanted.items() <= attrs.items()
        ]

    def texts(self, tag: str, **attributes: str) -> list[str]:
        return [text for _, text in self.all(tag, **attributes)]


def report(out: Path, *runs: Path, **settings: object) -> dict:
    return run(ReportConfig(runs=tuple(map(str, runs)), out=str(out), device="cpu", **{"size": SIZE, **settings}))


@pytest.fixture
def without_charts(monkeypatch):
    """Replaces charts, which take most of the time."""
    monkeypatch.setattr("ssltool.stages.report.html.inline_svg", lambda figure, prefix, alt: "<svg></svg>")


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory) -> list[Path]:
    """The trained run, and a copy with two other settings in a folder whose name has special characters."""
    other = tmp_path_factory.mktemp("runs") / STRANGE
    shutil.copytree(trained, other)
    settings = json.loads((other / "config.json").read_text()) | {"exp_name": "</script>", "seed": 11}
    (other / "config.json").write_text(json.dumps(settings))
    return [trained, other]


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory) -> tuple[Path, dict]:
    """The page about both, and the result of the stage."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    return out, report(out, *runs)


@pytest.fixture(scope="module")
def text(made) -> str:
    return made[0].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_every_section_has_a_heading_and_is_in_the_contents(page):
    assert [attrs["id"] for attrs, _ in page.all("section")] == SECTIONS
    assert len(page.all("h2")) == len(SECTIONS)
    assert [attrs["href"] for attrs, _ in page.all("a")] == [f"#{name}" for name in SECTIONS]


def test_verdicts_equal_those_of_collapse_on_the_same_images(without_charts, ssltool, tmp_path, tiny):
    """The run has fewer images than --size, so all are measured."""
    np.save(tmp_path / "some.npy", np.arange(100, 400))
    folder = pretrain(tiny(idx_path=str(tmp_path / "some.npy")))
    ran = ssltool("report", folder, "-o", tmp_path / "r.html", "--size", 5000, "--device", "cpu", "--json")
    assert ran.code == 0, ran.err
    shown = Page((tmp_path / "r.html").read_text()).texts("p", class_="evidence")
    (found,) = ran.json["runs"]
    assert found["images"] == 300
    for number, layer in enumerate(("backbone", "projector")):
        source = tmp_path / f"{layer}.pt"
        images = ["--pretrained", folder / "checkpoint.pt", "--idx-path", tmp_path / "some.npy"]
        untrained = tmp_path / f"{layer}_untrained.pt"
        for file, flags in ((source, []), (untrained, ["--random"])):
            saved = ssltool("save-reprs", *images, *flags, "--layer", layer, "-o", file, "--device", "cpu")
            assert saved.code == 0
        (measured,) = ssltool("collapse", source, "--reference", untrained, "--json").json["files"]
        assert found["layers"][layer]["line"] == shown[number]
        assert measured["verdict"]["line"].startswith(shown[number])
        assert found["layers"][layer]["notes"] == measured["notes"]
        for name, value in found["layers"][layer]["metrics"].items():
            other = measured["metrics"][name]
            assert value == other or value == pytest.approx(other, rel=1e-6)
    knn = ssltool("knn", tmp_path / "backbone.pt", tmp_path / "backbone.pt", "-k", 20, "--json").json
    assert found["knn"] == pytest.approx(knn["accuracy"])


def outputs(x, layer="backbone"):
    return types.SimpleNamespace(representations=x, meta={"layer": layer})


def test_a_verdict_is_that_beside_the_untrained_network_and_names_what_only_that_shows():
    """Outputs that shrank to a hundredth, outputs with less than half of the dimensions, and narrow ones as before."""
    x = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    run, narrow = types.SimpleNamespace(path="run"), 0.1 * x + 1
    pairs = ((0.01 * x, x), (4 * x * 0.65 ** torch.arange(16), x), (narrow, narrow))
    shrunk, flat, same = (_layer(outputs(now), outputs(before), run) for now, before in pairs)
    assert [kind.kind for kind in shrunk.verdict.kinds] == ["scale"]
    assert (shrunk.alone.state, shrunk.verdict.state) == ("healthy", "partial")
    assert (flat.alone.state, flat.verdict.state) == ("healthy", "partial")  # 6 dimensions instead of 16
    assert (same.alone.state, same.verdict.state) == ("partial", "healthy")
    assert "total variance" in shrunk.verdict.line and "untrained" in flat.verdict.line


def test_one_quantity_is_one_number_in_all_places(monkeypatch, ssltool, tmp_path, tiny):
    """A projector with 2,048 outputs and 64 inputs, and a batch of 256 of 300 images, all of which the monitor measures
    too: the card, the table, the captions, the curves, ``collapse`` and ``rank`` state the same of each layer."""
    charts = {}
    monkeypatch.setattr(
        "ssltool.stages.report.html.inline_svg", lambda figure, prefix, alt: charts.setdefault(alt, figure) and "<svg/>"
    )
    np.save(tmp_path / "some.npy", np.arange(300))
    settings = {"dim": 2048, "batch_size": 256, "steps_per_epoch": 1, "epochs": 2, "monitor_size": 300}
    folder = pretrain(tiny(idx_path=str(tmp_path / "some.npy"), **settings))
    result = report(tmp_path / "r.html", folder, size=5000)
    page = Page((tmp_path / "r.html").read_text())
    cells = [text for attrs, text in page.all("td", class_="number")]
    captions = page.texts("figcaption")
    for place, layer in enumerate(("backbone", "projector")):
        images = ["--pretrained", folder / "checkpoint.pt", "--idx-path", tmp_path / "some.npy", "--layer", layer]
        assert ssltool("save-reprs", *images, "-o", tmp_path / "p.pt", "--device", "cpu").code == 0
        (measured,) = ssltool("collapse", tmp_path / "p.pt", "--json").json["files"]
        area, rank, dead = (measured["metrics"][name] for name in ("auc", "effective_rank", "dead_directions"))
        verdict = measured["verdict"]
        assert (verdict["dimensions"], verdict["used"], verdict["dead_directions"]) == (64, rank, dead)
        assert verdict["auc_above_flat"] == pytest.approx(area - 65 / 128)
        shown = result["runs"][0]["layers"][layer]
        assert [shown["metrics"][name] for name in ("auc", "effective_rank", "dead_directions")] == [
            pytest.approx(value, rel=1e-6, abs=1e-12) for value in (area, rank, dead)
        ]
        evidence = page.texts("p", class_="evidence")[place]
        assert evidence == shown["line"] and f"effective rank {rank:.3g} of 64, {dead:.0%} dead" in evidence
        assert "AUC" not in evidence or f"AUC {area:.3f}" in evidence
        words = [text for text in page.texts("p", class_="words") if "in use" in text]
        assert words[place] == f"{rank:.1f} of 64 dimensions in use, measured on 300 images"
        row = cells[12 * place : 12 * place + 12]
        assert (row[0], row[1], row[3], row[9]) == (f"{area:.3f}", _short(rank), _short(100 * dead), "300")
        width = 64 if layer == "backbone" else "2,048"
        assert f"(AUC): {area:.3f}. Of 300 images, and the 64 of {width} directions" in captions[place]
        relative, share = (
            charts[f"Spectrum of the {layer}, curve {i} of 3"].axes[0].lines[0].get_ydata() for i in (2, 3)
        )
        assert len(share) == 64 and np.mean(share) == pytest.approx(area, rel=1e-6)
        assert np.mean(~(relative >= 1e-3)) == pytest.approx(dead)  # noise is not drawn
        for title, value in (("AUC", area), ("Effective rank", rank), ("Dead directions", 100 * dead)):
            line = charts[f"{title} over epochs"].axes[0].lines[place]
            assert line.get_ydata()[-1] == pytest.approx(value, rel=1e-3, abs=1e-6)
        ranked = ssltool("rank", tmp_path / "p.pt", "--layer", layer, "--by", "dead_directions", "--json").json
        assert ranked["rows"][0]["dead_directions"] == dead
        assert not any("2,048" in note for note in shown["notes"])  # the layer has 64 directions


def _short(value: float) -> str:
    """A number as the table of metrics shows it."""
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def test_the_untrained_network_is_below_each_value_and_in_each_spectrum(monkeypatch, tmp_path, trained):
    """It is the network that the seed gives, whose outputs for the same images are measured."""
    charts = {}
    monkeypatch.setattr(
        "ssltool.stages.report.html.inline_svg", lambda figure, prefix, alt: charts.setdefault(alt, figure) and "<svg/>"
    )
    (found,) = report(tmp_path / "r.html", trained)["runs"]
    config = NetworkSettings(pretrained=str(trained / "checkpoint.pt"), random=True)
    network = load_pretrained(config, torch.device("cpu"))
    images = open_dataset(PretrainConfig(), "train").select(np.sort(np.random.RandomState(10).permutation(8000)[:SIZE]))
    rows = extract_all(network, images, SaveReprsConfig(), torch.device("cpu")).representations
    untrained = found["layers"]["backbone"]["untrained"]
    assert untrained["auc"] == pytest.approx(auc(singular_values(rows)), rel=1e-6)
    page = Page((tmp_path / "r.html").read_text())
    assert f"{untrained['auc']:.3f}" == page.texts("span", class_="untrained")[0]
    lines = charts["Spectrum of the backbone, curve 3 of 3"].axes[0].lines
    assert np.mean(lines[1].get_ydata()) == pytest.approx(untrained["auc"], rel=1e-6)
    assert "untrained network" in page.texts("li")


def test_pictures_have_the_names_of_their_images(without_charts, tmp_path, trained, write_images, tiny):
    """The path of a file, or the number of an image that has none."""
    report(tmp_path / "r.html", trained)
    names = Page((tmp_path / "r.html").read_text()).texts("span", class_="name")
    assert len(names) > 60 and all(re.fullmatch(r"#\d+", name) for name in names)


def test_each_verdict_has_a_word_and_a_symbol(page, made):
    signs = {"healthy": "● healthy", "partial": "◐ partial collapse", "complete": "○ complete collapse"}
    states = [found["verdict"] for one in made[1]["runs"] for found in one["layers"].values()]
    badges = [(a["class"], text) for a, text in page.all("span") if a.get("class", "").startswith("badge")]
    assert badges == [(f"badge {state}", signs[state]) for state in states * 2]  # in the cards, then in the table


def test_the_page_has_no_external_resources(page, text):
    for tag, attrs, _ in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href", "xlink:href", "srcset", "data", "poster", "action"):
            assert attrs.get(name, "#").startswith(("#", "data:image/png;base64,"))
    assert "http:" not in text and "https:" not in text
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest|import\(", text)
    assert [attrs for attrs, _ in page.all("script")] == [{}]


def test_ids_are_unique_and_references_resolve(page, text):
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', text)) <= set(ids)


def test_names_of_files_are_escaped(page, text):
    assert any(name.endswith(f"/{STRANGE}") for name in page.texts("h3"))
    assert "b" not in {tag for tag, *_ in page.elements}
    assert html.escape(STRANGE) in text and "<b>" not in text
    assert "</script>" in "".join(page.texts("code"))
    assert len(page.all("script")) == 1


def test_the_same_runs_give_the_same_bytes(runs, made, tmp_path):
    again = report(tmp_path / "again.html", *runs)
    assert (tmp_path / "again.html").read_bytes() == made[0].read_bytes()
    assert again["bytes"] == made[0].stat().st_size
    assert to_json(again["runs"]) == to_json(made[1]["runs"])


def test_the_page_is_small(made):
    assert made[1]["bytes"] < 1_000_000


def test_each_column_heading_of_the_table_is_a_button(page, text):
    heads = page.all("th", scope="col", aria_sort="none")
    table = text[text.index('<table class="sortable"') :]
    assert len(heads) == table[: table.index("</thead>")].count("<button ") == 15
    rows = re.findall(r"<tr>.*?</tr>", table[table.index("<tbody>") : table.index("</tbody>")], re.DOTALL)
    assert len(rows) == 4  # two runs of two layers
    assert all(row.count("<t") - 1 == 15 for row in rows)


def test_it_has_light_dark_and_print_styles(text):
    style = text[text.index("<style>") : text.index("</style>")]
    assert "color-scheme: light dark" in style and style.count("light-dark(") > 10
    assert '[data-theme="dark"] { color-scheme: dark; }' in style and "@media print" in style
    assert "@media (max-width:" in style
    assert 'name="viewport"' in text
    used = set(re.findall(r"var\((--[\w-]+)", text))
    assert used <= set(re.findall(r"(--[\w-]+):", style))


def test_images_and_charts_have_labels_and_contents(page):
    pictures = page.all("img")
    assert len(pictures) > 50
    for attrs, _ in pictures:
        assert attrs["alt"]
        data = base64.b64decode(attrs["src"].partition(",")[2])
        assert Image.open(io.BytesIO(data)).format == "PNG"
    charts = page.all("svg", class_="plot")
    assert len(charts) >= 6 + 2 + 2 + 3 and all(attrs["aria-label"] and attrs["role"] == "img" for attrs, _ in charts)


def test_charts_are_those_of_the_recorded_metrics(page, trained):
    names = [attrs["aria-label"] for attrs, _ in page.all("svg", class_="plot")]
    assert "Loss over epochs" in names
    monitored = "backbone_auc" in records(trained)[0]
    assert ("AUC over epochs" in names) == monitored


def test_differing_settings_are_first(page, text):
    where = [text.index(words) for words in ("Differences", "Checkpoints and versions", "<details>")]
    assert where == sorted(where)
    differing = text[where[0] : where[1]]
    assert set(re.findall(r'<th scope="row">([^<]*)</th>', differing)) == {"exp_name", "seed"}
    assert "2 of" in differing
    assert "batch_size" in text[where[2] :]


def test_the_checkpoint_hash_and_the_versions_are_shown(page, trained):
    codes = page.texts("code")
    stored = torch.load(trained / "checkpoint.pt", weights_only=True)
    assert f"ssltool {stored['ssltool']}, torch {stored['torch']}" in codes
    assert any(re.fullmatch("[0-9a-f]{64}", code) for code in codes)


def test_different_views_are_shown_for_each_run(page, text, trained):
    views = text[text.index('<section id="views">') : text.index('<section id="schedule">')]
    assert len(re.findall("<h3>", views)) == 2  # another seed makes other views
    assert f"{trained.name}, " not in views


def test_views_and_schedules_of_equal_runs_are_shown_once(without_charts, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "twin")
    report(tmp_path / "r.html", trained, tmp_path / "twin")
    text = (tmp_path / "r.html").read_text()
    for name, end in (("views", "schedule"), ("schedule", "settings")):
        part = text[text.index(f'<section id="{name}">') : text.index(f'<section id="{end}">')]
        assert part.count("<h3>") == 1
    assert "0 of " in text[text.index("Differences") : text.index("Checkpoints and versions")]


@pytest.fixture
def neighbours(trained, tmp_path, ssltool):
    """The representations and labels of all training images of the run."""
    source = tmp_path / "all.pt"
    assert ssltool("save-reprs", "--pretrained", trained / "checkpoint.pt", "-o", source, "--device", "cpu").code == 0
    return Representations.load(source)


def test_neighbours_are_the_nearest_by_cosine_and_other_classes_are_marked(page, neighbours):
    rows = np.sort(np.random.RandomState(10).permutation(8000)[:SIZE])
    x = torch.nn.functional.normalize(neighbours.representations[rows].double(), dim=1)
    labels = neighbours.targets[rows]
    cosines = x @ x.T
    cosines.fill_diagonal_(-2)
    pictures = [attrs["alt"] for attrs, _ in page.all("img") if attrs["alt"].startswith(("query", "neighbour"))]
    queries = [alt for alt in pictures if alt.startswith("query")]
    assert len(queries) == 16  # of two runs
    for place, number in enumerate(labels.unique()[torch.linspace(0, 9, 8).long()].tolist()):
        row = int((labels == number).nonzero()[0])
        assert queries[place] == f"query {place + 1}, class {number}, #{rows[row]}"
        best = cosines[row].topk(8)
        for near, alt in enumerate(pictures[place * 9 + 1 : place * 9 + 9]):
            kind = "the same" if labels[best.indices[near]] == number else "another"
            assert alt.startswith(f"neighbour {near + 1}, class ") and f", {kind} class, #" in alt
            assert float(alt.rpartition(" ")[2]) == pytest.approx(float(best.values[near]), abs=6e-4)
    wrong = [alt for alt in pictures if "another class" in alt]
    assert (
        len(wrong) == len(page.all("td", class_="wrong")) == sum(text.startswith("✕ ") for text in page.texts("span"))
    )


@pytest.fixture
def unlabelled(tiny, tmp_path, write_images) -> Path:
    write_images(tmp_path / "images", 40)
    return pretrain(tiny("plain", data=str(tmp_path / "images"), workers=0, steps_per_epoch=1))


def test_unlabelled_images_have_neighbours_and_a_map_without_classes(without_charts, unlabelled, tmp_path):
    found = report(tmp_path / "r.html", unlabelled, workers=0)
    assert found["runs"][0]["knn"] is None
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert not page.all("td", class_="wrong") and "✕" not in text[text.index("<body>") :]
    alts = [attrs["alt"] for attrs, _ in page.all("img")]
    assert len([alt for alt in alts if re.fullmatch(r"neighbour \d, \S+\.png, cosine [\d.]+", alt)]) == 64
    files = {str(path.relative_to(tmp_path / "images")) for path in (tmp_path / "images").rglob("*.png")}
    named = page.all("span", class_="name")
    assert len(named) > 64 and {attrs["title"] for attrs, _ in named} <= files
    assert all(attrs["title"].endswith(text) for attrs, text in named)
    assert "largest classes" not in text and "another class" not in text
    assert not page.all("svg", class_="marker")


def test_data_gives_the_new_folder_of_moved_images(without_charts, unlabelled, tmp_path, ssltool):
    (tmp_path / "images").rename(tmp_path / "moved")
    ran = ssltool("report", unlabelled, "-o", tmp_path / "r.html")
    assert ran.code == 1 and "--data" in ran.err and not (tmp_path / "r.html").exists()
    ran = ssltool("report", unlabelled, "-o", tmp_path / "r.html", "--data", tmp_path / "moved", "-j", 0)
    assert ran.code == 0 and (tmp_path / "r.html").exists()


def test_a_method_without_a_projector_and_a_run_without_records_have_a_report(without_charts, tiny, tmp_path):
    folder = pretrain(tiny("supervised", method="supervised", dim=None, pred_dim=None))
    (folder / "metrics.jsonl").unlink()
    found = report(tmp_path / "r.html", folder)
    assert "backbone" in found["runs"][0]["layers"]
    assert Page((tmp_path / "r.html").read_text()).all("section", id="training")


def test_checkpoint_selects_an_earlier_epoch(without_charts, tiny, tmp_path):
    folder = pretrain(tiny(save_every=1, epochs=2))
    found = report(tmp_path / "r.html", folder, checkpoint="checkpoint_0000.pt")
    assert found["runs"][0]["epoch"] == 1
    text = (tmp_path / "r.html").read_text()
    assert "1 of 2 epochs" in text and "checkpoint_0000.pt" in text
    assert f"{records(folder)[0]['loss']!r}" in text  # the loss of that epoch, not of the last


def test_a_network_that_diverged_is_refused(trained, tmp_path):
    folder = tmp_path / "nan"
    shutil.copytree(trained, folder)
    checkpoint = Checkpoint.load(folder / "checkpoint.pt")
    checkpoint.state_dict["backbone.bn1.weight"].fill_(float("nan"))
    checkpoint.save(folder / "checkpoint.pt")
    with pytest.raises(SSLToolError, match=f"backbone .*{SIZE} of {SIZE} images.*--checkpoint"):
        report(tmp_path / "r.html", folder)


def test_a_checkpoint_of_another_program_in_a_run_folder_is_refused(trained, tmp_path):
    folder = tmp_path / "foreign"
    shutil.copytree(trained, folder)
    weights = Checkpoint.load(folder / "checkpoint.pt").state_dict
    torch.save({"state_dict": weights}, folder / "checkpoint.pt")
    with pytest.raises(SSLToolError, match=r"checkpoint\.pt is a checkpoint of "):
        report(tmp_path / "r.html", folder)


def test_tsne_requires_scikit_learn(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(SSLToolError, match=r"--map tsne .*pip install scikit-learn"):
        report(tmp_path / "r.html", trained, map="tsne")
    asked = {}

    class TSNE:
        def __init__(self, n_components, **settings):
            asked.update(settings)

        def fit_transform(self, x):
            return x[:, :2]

    monkeypatch.setitem(sys.modules, "sklearn.manifold", types.SimpleNamespace(TSNE=TSNE))
    report(tmp_path / "r.html", trained, map="tsne", seed=3)
    assert asked["random_state"] == 3 and asked["perplexity"] < SIZE / 3
    assert "t-SNE 1" in (tmp_path / "r.html").read_text()


def test_invalid_inputs_are_refused_in_one_line(ssltool, trained, tmp_path):
    for arguments, words in (
        ([tmp_path], str(tmp_path)),
        ([trained, trained], "twice"),
        ([trained, "--checkpoint", "gone.pt"], "gone.pt"),
        ([trained, "--data", tmp_path], "--data"),
    ):
        ran = ssltool("report", "-o", tmp_path / "r.html", *arguments)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.splitlines()[-1].startswith("error: ") and words in ran.err
    assert list(tmp_path.glob("*.html")) == []
    assert "--out" in usage_message(ssltool("report", trained, "-o", tmp_path / "r.pdf"))
    assert ssltool("report").code == 2


def test_without_json_there_is_a_table_of_verdicts(without_charts, ssltool, trained, tmp_path):
    ran = ssltool("report", trained, "-o", tmp_path / "r.html", "--size", 50)
    lines = ran.out.splitlines()
    assert lines[0].split() == ["run", "layer", "verdict"]
    assert [line.split()[:2] for line in lines[1:3]] == [[trained.name, "backbone"], [trained.name, "projector"]]
    assert lines[-1].startswith(str(tmp_path / "r.html"))
    assert {"plot", "report"} <= set(cli.list_commands(None))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """Opens a page in a headless browser: ``chromium(url) -> (the page after its script, console messages)``."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("chromium is not installed")
    profile = tmp_path_factory.mktemp("profile")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={profile}"]

    def open_page(url: str) -> tuple[Page, list[str]]:
        ran = subprocess.run([program, *flags, "--dump-dom", url], capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr
        return Page(ran.stdout), [line for line in ran.stderr.splitlines() if "CONSOLE" in line]

    return open_page


def column(page: Page, number: int) -> list[str]:
    """The sort keys of the cells in a column of the sortable table."""
    start = next(i for i, (tag, attrs, _) in enumerate(page.elements) if attrs.get("id") == "runs")
    cells = [e for e in page.elements[start:] if e[0] in ("th", "td") and e[1].get("scope") != "col"]
    return [attrs.get("data-value", "".join(text)) for _, attrs, text in cells[number::15][:4]]


@pytest.mark.parametrize(("anchor", "order"), [("", "none"), ("#sort=3", "ascending"), ("#sort=-3", "descending")])
def test_the_anchor_sorts_the_table_in_a_browser_without_errors(chromium, made, anchor, order):
    page, logged = chromium(f"{made[0].as_uri()}{anchor}")
    assert logged == []
    areas = list(map(float, column(page, 3)))
    if order != "none":
        assert areas == sorted(areas, reverse=order == "descending")
    heads = [attrs["aria-sort"] for attrs, _ in page.all("th", scope="col") if "aria-sort" in attrs]
    assert heads[3] == order and heads[:3] + heads[4:] == ["none"] * 14
    assert "hidden" not in page.all("button", id="theme")[0][0]


CLICKS = """<script>
const button = document.querySelectorAll("#runs button")[%d];
button.click(); button.click(); document.getElementById("theme").click();
</script></body>"""


@pytest.mark.parametrize("number", [0, 10])  # text, and numbers that some rows do not have
def test_a_second_click_reverses_the_order_and_the_theme_can_be_changed(chromium, made, tmp_path, text, number):
    clicked = tmp_path / "clicked.html"
    clicked.write_text(text.replace("</body>", CLICKS % number), encoding="utf-8")
    page, logged = chromium(clicked.as_uri())
    assert logged == []
    heads = [attrs["aria-sort"] for attrs, _ in page.all("th", scope="col") if "aria-sort" in attrs]
    assert heads[number] == "descending"
    values = column(page, number)
    known = [value for value in values if value != ""]
    assert values[: len(known)] == known  # empty cells are last in both orders
    assert known == sorted(known, key=str.lower if number == 0 else float, reverse=True)
    assert page.all("html")[0][0]["data-theme"] in ("light", "dark")
