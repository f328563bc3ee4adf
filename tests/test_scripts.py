"""The scripts of benchmarks/, pipelines/ and docs/, most of which no test runs, use names that ``ssltool`` has."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import ssltool

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path for folder in ("benchmarks", "pipelines", "docs") for path in (ROOT / folder).rglob("*.py"))


def missing_names(source: str) -> Iterator[str]:
    """What a script imports from ``ssltool``, or takes from a module of it, and is not there. What the script itself
    assigns to a module counts as there."""
    tree, modules = ast.parse(source), dict[str, ModuleType]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "ssltool":
                    loaded = importlib.import_module(alias.name)
                    modules[alias.asname or "ssltool"] = loaded if alias.asname else ssltool
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ssltool":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if hasattr(module, alias.name):
                    value = getattr(module, alias.name)
                    modules |= {alias.asname or alias.name: value} if isinstance(value, ModuleType) else {}
                elif importlib.util.find_spec(name) is not None:
                    modules[alias.asname or alias.name] = importlib.import_module(name)
                else:
                    yield name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and isinstance(node.ctx, ast.Load):
            owner = modules.get(node.value.id)
            if owner is not None and not hasattr(owner, node.attr):
                yield f"{owner.__name__}.{node.attr}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_script_uses_names_that_are_there(path):
    assert list(missing_names(path.read_text(encoding="utf-8"))) == []


def test_names_that_are_not_there_are_found():
    source = "import ssltool.errors as errors\nfrom ssltool import knn, nothing\nerrors.SSLToolError\nerrors.Nothing\n"
    assert sorted(missing_names(source)) == ["ssltool.errors.Nothing", "ssltool.nothing"]
