"""The figures of ``docs/concepts.md``: their data is what the script computes, and shows what the page says."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).resolve().parents[1] / "docs"
STATIC = DOCS / "_static"
FILES = sorted(STATIC.glob("concepts*"))


@pytest.fixture(scope="module")
def figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        yield importlib.import_module("concept_figures")


@pytest.fixture(scope="module")
def collapse(figures):
    return {run["note"]: run for run in figures.read_script(STATIC / "concepts-collapse.js")["runs"]}


@pytest.fixture(scope="module")
def losses(figures):
    return {(r["name"], r["note"]): r for r in figures.read_script(STATIC / "concepts-losses.js")["runs"]}


def number(run, name, frame=-1):
    (line,) = [line for line in run["text"][frame] if line.startswith(name)]
    return float(line.split()[-1])


def test_the_first_steps_of_a_run_are_computed_again(figures, losses):
    """Rounding differs between processors, and training amplifies it, so only the first steps are compared."""
    steps = figures.STEPS[:4]
    run = figures.LOSSES[0]
    again, committed = figures.frames(run, 2, steps), losses[run.name, run.note]
    for name in ("points", "s"):
        expected = torch.tensor(committed[name][: len(steps)], dtype=torch.float64)
        assert torch.allclose(torch.tensor(again[name], dtype=torch.float64), expected, rtol=0.005, atol=1)
    assert {k: v for k, v in again.items() if isinstance(v, str)} == {"name": run.name, "note": run.note}


def test_the_spectra_are_those_of_the_points(losses):
    for run in losses.values():
        for xy, s in zip(run["points"], run["s"], strict=True):
            points = torch.tensor(xy, dtype=torch.float64).reshape(-1, 2) / 100
            found = torch.linalg.svdvals(points - points.mean(dim=0))
            assert torch.allclose(found, torch.tensor(s, dtype=torch.float64), rtol=0.01, atol=0.06)


def test_runs_of_a_figure_begin_with_the_same_embeddings(collapse):
    first, *others = (run["points"][0] for run in collapse.values())
    assert all(points == first for points in others)


def test_the_runs_collapse_as_the_page_says(collapse, losses):
    healthy, dimensional, complete = collapse.values()
    assert number(healthy, "effective_rank") > 4.5 and number(healthy, "feature_std") > 0.9
    assert number(dimensional, "effective_rank") < 1.5 and number(dimensional, "feature_std") > 0.5
    assert number(complete, "effective_rank") > 4 and number(complete, "feature_std") < 0.05
    distances = [number(run, "distance") for run in (complete, dimensional, healthy)]
    assert distances == sorted(distances)
    for name, note in (("SimSiam", "stop_grad=false"), ("SimCLR", "negatives=false")):
        as_it_is, without = (run for run in losses.values() if run["name"] == name)
        assert without["note"] == note and number(without, "loss") < number(as_it_is, "loss")
        assert number(without, "feature_std") < 0.1 and number(as_it_is, "feature_std") > 0.9
    for name in ("VICReg", "Barlow Twins"):
        as_it_is, without = (run for run in losses.values() if run["name"] == name)
        assert number(as_it_is, "effective_rank") > 1.9 and number(without, "effective_rank") < 1.7


def test_every_file_is_small_and_needs_no_network():
    assert len(FILES) == 6
    for path in FILES:
        assert path.stat().st_size < 150_000
    for path in [*STATIC.glob("concepts*.js"), STATIC / "style.css"]:
        addresses = set(re.findall(r"""(?:https?:)?//[\w.-]+\.\w+[^"'\s)]*""", path.read_text(encoding="utf-8")))
        assert addresses <= {"http://www.w3.org/2000/svg"}


def test_the_scripts_and_pictures_exist_and_the_page_shows_them():
    player = (STATIC / "concepts.js").read_text(encoding="utf-8")
    page = (DOCS / "concepts.md").read_text(encoding="utf-8")
    pictures = re.findall(r'"(concepts-\w+\.png)"', player)
    assert pictures == re.findall(r"\]\(_static/(concepts-\w+\.png)\)", page)
    scripts = re.findall(r'"(concepts[\w-]*\.js)"', (DOCS / "conf.py").read_text(encoding="utf-8"))
    assert {path.name for path in FILES} == {*pictures, *scripts}
