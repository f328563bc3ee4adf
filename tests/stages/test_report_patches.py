"""The report's section of patches: runs of ViTs have it, others do not."""

from __future__ import annotations

import re

import pytest

from ssltool.config import ReportConfig
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.report import run

VIT = "timm:vit_tiny_patch16_224,patch_size=7,embed_dim=12,depth=1,num_heads=2"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The page about runs, and what its sections are called."""
    monkeypatch.setattr("ssltool.stages.report.html.inline_svg", lambda figure, prefix, alt: "<svg></svg>")

    def make(*folders: object) -> tuple[str, list[str]]:
        out = tmp_path / "report.html"
        run(ReportConfig(runs=tuple(map(str, folders)), out=str(out), device="cpu", size=30, rows=2))
        text = out.read_text()
        return text, re.findall(r'<section id="(\w+)"', text)

    return make


def test_a_vit_has_pictures_of_its_patches_and_another_network_none(page, tiny, trained, capsys):
    pytest.importorskip("timm")
    vit = pretrain(tiny("vit", arch=VIT, image_size=28, stem="auto", epochs=1, monitor_every=0))
    text, sections = page(vit, trained)
    assert "patches" in sections and "left out" not in text
    part = text[text.index('<section id="patches"') :].split("</section>")[0]
    assert part.count("<img") == 2 * 4 and part.count('alt="components of image') == 2
    assert "Cosines to the patch in row 2, column 2" in part
    text, sections = page(trained)
    assert "patches" not in sections and "left out" not in text
    assert "left out" not in capsys.readouterr().err
