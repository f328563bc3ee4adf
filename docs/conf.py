"""Sphinx: MyST Markdown pages with the furo theme. ``sphinx-build -W -b html docs docs/_build/html``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ssltool

project = "ssltool"
author = "the ssltool authors"
copyright = "the ssltool authors, MIT licence"
version = release = ssltool.__version__

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"ssltool {version}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"},
    "dark_css_variables": {"color-brand-primary": "#56B4E9", "color-brand-content": "#56B4E9"},
}

CONCEPTS = ("concepts-collapse.js", "concepts-losses.js", "concepts.js")


def add_scripts(app, pagename, templatename, context, doctree):
    """Loads the scripts of the interactive figures in their page only."""
    for name in CONCEPTS if pagename == "concepts" else ():
        app.add_js_file(name, loading_method="defer")


def setup(app):
    app.connect("html-page-context", add_scripts)
