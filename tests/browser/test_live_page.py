"""The page of ``watch`` in Chromium, while a run collapses on purpose. ``make browser`` runs it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.skipif("BROWSER_TESTS" not in os.environ, reason="takes minutes: make browser"),
    pytest.mark.skipif("BROWSER_TESTS" in os.environ and CHROMIUM is None, reason="no Chromium"),
]

SLOW = 600_000
"""Milliseconds: a run of a few epochs, on a busy machine."""

COLLAPSING = (
    *("-a", "resnet18_w8", "--stem", "small-stride2", "--image-size", "16", "--dim", "32", "-b", "32", "--lr", "0.5"),
    *("--epochs", "14", "--steps-per-epoch", "6", "--save-every", "7", "--monitor-size", "256", "--device", "cpu"),
    *("--set", "stop_grad=false"),
)
PATHS = (
    "[...document.querySelectorAll('#curves .plot:first-child path')].map((path) => path.getAttribute('d')).join('')"
)
"""The lines of the first chart."""


@pytest.fixture
def address(tmp_path) -> Iterator[str]:
    """The address of the page of the runs in ``tmp_path/logs``, which is empty."""
    (tmp_path / "logs").mkdir()
    command = [sys.executable, "-m", "ssltool", "watch", "logs", "--port", "0", "--no-open", "--every", "0.5"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.terminate()


def train(folder: Path, name: str, *flags: str) -> subprocess.Popen[bytes]:
    """Starts a run in ``folder/logs/name``."""
    command = [sys.executable, "-m", "ssltool", "pretrain", *flags, "--out", f"logs/{name}"]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def write_run(folder: Path, name: str, loss: float, lr: float) -> None:
    """The files of a run of two epochs that ends with this loss."""
    run = folder / "logs" / name
    run.mkdir()
    settings = {"stage": "pretrain", "method": "simsiam", "arch": "resnet18", "epochs": 2, "lr": lr}
    (run / "config.json").write_text(json.dumps(settings | {"method_options": {}}))
    records = [{"epoch": i, "step": 10 * i, "loss": loss / (i or 0.5), "seconds": 1.0} for i in (0, 1)]
    records[1] |= {"verdict": "healthy", "backbone_auc": 0.5 + lr}
    (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """The size and the time of every file and folder."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


@contextlib.contextmanager
def opened(address: str) -> Iterator:
    """The page in a browser; afterwards its console must be empty."""
    from playwright.sync_api import sync_playwright

    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address)
        yield page
        browser.close()
    assert said == []


def fits(page) -> bool:
    """Whether nothing of the page is beyond its right edge."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def ground(page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def follow(page) -> None:
    """A new run appears; its curve grows and its verdict changes while the page is open."""
    from playwright.sync_api import expect

    row = page.locator("#runs tbody tr", has_text="mine")
    expect(row.locator(".state")).to_have_text("running", timeout=SLOW)
    expect(row).to_contain_text(re.compile(r"\b([2-9]|1[0-3]) of 14"), timeout=SLOW)
    expect(page.locator("#curves .plot:first-child path").first).to_be_attached(timeout=SLOW)
    early, verdict = page.evaluate(PATHS), row.locator(".badge").inner_text()
    assert "complete" not in verdict
    expect(row.locator(".state")).to_have_text("finished", timeout=SLOW)
    expect(row.locator(".badge")).to_contain_text("complete collapse")
    assert page.evaluate(f"{PATHS}.split(/[ML]/).length") > len(re.split("[ML]", early))
    assert page.locator("#curves .plot").count() >= 6


def use_keys(page) -> None:
    """The table, the run and the way back by keys alone."""
    from playwright.sync_api import expect

    page.keyboard.press("/")
    page.keyboard.type("no such run")
    expect(page.locator("#runs tbody tr")).to_have_count(0)
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator("#curves .plot")).to_have_count(0)
    page.keyboard.press("x")
    expect(page.locator("#curves .plot").first).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text("mine")
    page.keyboard.press("Escape")
    expect(page.locator("#title")).to_have_text("Runs")


def look_at_the_run(page) -> None:
    """Cause and advice, the spectrum of two checkpoints, and pictures."""
    from playwright.sync_api import expect

    page.locator("#runs tbody a", has_text="mine").click()
    expect(page.locator(".diagnosis")).to_contain_text("stop-gradient", timeout=SLOW)
    expect(page.locator(".live .strip.complete")).to_have_count(8)
    page.get_by_role("button", name="Measure checkpoints").click()
    expect(page.locator(".spectra .plot")).to_have_count(4, timeout=SLOW)
    page.locator(".slider").focus()
    expect(page.locator(".chosen")).to_have_text("epoch 14")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".chosen")).to_have_text("epoch 7")
    assert page.locator(".pictures-of img").count() > 10


def test_a_collapsing_run_in_a_browser(tmp_path, address):
    from playwright.sync_api import expect

    with opened(address) as page:
        expect(page.locator("#summary")).to_contain_text("no run yet", timeout=SLOW)
        with train(tmp_path, "mine", *COLLAPSING) as run:
            follow(page)
            assert run.wait() == 0
        before = state_of(tmp_path / "logs")
        use_keys(page)
        look_at_the_run(page)
        for width in (390, 1800):
            page.set_viewport_size({"width": width, "height": 900})
            assert fits(page), width
        light = ground(page)
        page.emulate_media(color_scheme="dark")
        dark = ground(page)
        page.locator("#theme").click()
        assert (light != dark, ground(page)) == (True, light)
        assert state_of(tmp_path / "logs") == before


def test_many_runs_are_sorted_filtered_and_two_of_them_compared(tmp_path, address):
    from playwright.sync_api import expect

    for name, loss, lr in (("first", 0.3, 0.1), ("second", 0.1, 0.2), ("third", 0.2, 0.4)):
        write_run(tmp_path, name, loss, lr)
    before = state_of(tmp_path / "logs")
    with opened(address) as page:
        names = page.locator("#runs tbody a")
        expect(names).to_have_text(["first", "second", "third"], timeout=SLOW)
        loss = page.locator("#runs thead button", has_text="Loss")
        loss.click()
        expect(names).to_have_text(["second", "third", "first"])
        loss.click()
        expect(names).to_have_text(["first", "third", "second"])
        heads = page.locator("#runs thead th")
        expect(heads.filter(has_text="lr")).to_have_count(1)  # the setting in which they differ
        page.locator("#chooser summary").click()
        page.locator("#columns label", has_text=re.compile("^ *Loss$")).click()
        expect(heads.filter(has_text="Loss")).to_have_count(0)
        page.locator("#chooser summary").click()
        page.locator("#filter").fill("lr 0.4")
        expect(names).to_have_text(["third"])
        page.locator("#filter").fill("")
        page.get_by_label("draw first").uncheck()
        page.locator("#compare").click()
        expect(page.locator("#title")).to_have_text("Two runs")
        expect(page.locator("#differences tbody tr")).to_have_count(1)
        expect(page.locator("#differences tbody td")).to_have_text(["0.2", "0.4"])
        expect(page.locator("#details .run .name")).to_have_text(["second", "third"])
        boxes = [page.locator("#details .run").nth(i).bounding_box() for i in (0, 1)]
        assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
        page.set_viewport_size({"width": 390, "height": 900})
        assert fits(page)
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Rank the drawn runs").click()
        expect(page.locator(".ranks tbody th").first).to_have_text("second", timeout=SLOW)
    assert state_of(tmp_path / "logs") == before
