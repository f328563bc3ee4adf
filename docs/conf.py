"""Sphinx: MyST Markdown pages with the furo theme. ``sphinx-build -W -b html docs docs/_build/html``."""

import sys
from pathlib import Path

import jupytext
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ssltool

project = "ssltool"
author = "the ssltool authors"
copyright = "the ssltool authors, MIT licence"
version = release = ssltool.__version__

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist", "html_image"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown", ".py": "markdown", ".sh": "markdown"}  # scripts: see example_as_markdown
exclude_patterns = ["_build", "*.py", "gallery/run.py"]

html_theme = "furo"
html_title = f"ssltool {version}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"},
    "dark_css_variables": {"color-brand-primary": "#56B4E9", "color-brand-content": "#56B4E9"},
}

CONCEPTS = ("concepts-collapse.js", "concepts-losses.js", "concepts.js")


def add_scripts(app: Sphinx, pagename: str, templatename: str, context: dict[str, object], doctree: object) -> None:
    """Loads the scripts of the interactive figures in their page only."""
    for name in CONCEPTS if pagename == "concepts" else ():
        app.add_js_file(name, loading_method="defer")


def example_as_markdown(app: Sphinx, name: str, content: list[str]) -> None:
    """Turns a script of the gallery, in jupytext's percent format, into Markdown that ends with its picture."""
    path = Path(app.env.doc2path(name))
    if path.suffix == ".md":
        return
    language = {".py": "python", ".sh": "bash"}[path.suffix]
    cells = jupytext.reads(content[0], fmt=f"{path.suffix[1:]}:percent").cells
    texts = [c.source if c.cell_type == "markdown" else f"```{language}\n{c.source}\n```" for c in cells]
    content[0] = "\n\n".join([*texts, f"![The picture of the example]({path.stem}.png)"])


def setup(app: Sphinx) -> None:
    app.connect("source-read", example_as_markdown)
    app.connect("html-page-context", add_scripts)
