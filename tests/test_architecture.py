"""The rules that keep the package small and its parts apart, read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import ssltool
from ssltool.methods import METHODS

ROOT = Path(ssltool.__file__).parent
MODULES = {
    ".".join(["ssltool", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

FOUNDATION = {
    "ssltool",
    "ssltool.errors",
    "ssltool.config",
    "ssltool.files",
    "ssltool.numeric",
    "ssltool.plain",
    "ssltool.seeds",
    "ssltool.settings",
}
PARTS = {"methods", "data", "models", "foreign", "collapse", "training", "viz"}


def layer(module: str) -> int:
    """cli 3 -> stages 2 -> methods, data, models, foreign, collapse, training, viz 1 -> files, config, ... 0."""
    if module in FOUNDATION or module.startswith("ssltool.config."):
        return 0
    part = module.split(".")[1]
    return 3 if part in ("cli", "__main__") else 1 if part in PARTS else 2


OF_METHODS = {f"ssltool.methods.{entry.target.partition(':')[0]}" for entry in METHODS.values()}

STAGES = [module for module in MODULES if layer(module) == 2]


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports(module: str, nodes: Iterator[ast.AST] | None = None) -> set[str]:
    """What a module imports anywhere, or in ``nodes``; ``from a import b`` is a.b where that is a module."""
    found = set()
    for node in nodes or ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            full = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in full.values()}
    return found


def functions(module: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(module)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def public(module: str) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Public functions and classes of a module, and public methods of classes that inherit none from another."""
    for node in tree(module).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef) and not node.bases:
                yield from (m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_"))


def test_imports_point_one_way():
    wrong = [
        f"{module} imports {imported}"
        for module in MODULES
        for imported in imports(module) & MODULES.keys()
        if layer(imported) > layer(module)
    ]
    assert wrong == []


def test_modules_do_not_import_one_another_in_a_circle():
    waiting = {m: imports(m, iter(tree(m).body)) & MODULES.keys() - {m, "ssltool"} for m in MODULES}
    while ready := {module for module, needed in waiting.items() if not needed & waiting.keys()}:
        waiting = {module: needed for module, needed in waiting.items() if module not in ready}
    assert sorted(waiting) == []


def test_only_one_module_imports_torch_distributed():
    users = {m for m in MODULES if any(name.startswith("torch.distributed") for name in imports(m))}
    users |= {
        module
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.distributed")
    }
    assert users == {"ssltool.training.distributed"}


STDLIB_ONLY = [m for m in MODULES if m.startswith("ssltool.config") or m in ("ssltool.errors", "ssltool.settings")]


@pytest.mark.parametrize("module", STDLIB_ONLY)
def test_settings_and_errors_need_the_standard_library_only(module):
    foreign = {name for name in imports(module) if name.split(".")[0] not in sys.stdlib_module_names}
    assert foreign <= set(STDLIB_ONLY)


def test_methods_are_imported_by_one_another_only():
    assert MODULES.keys() >= OF_METHODS
    assert {m for m in MODULES if imports(m) & OF_METHODS} <= OF_METHODS


def test_nothing_but_the_registry_and_the_settings_names_a_method():
    """Neither the loop nor any part of it: a method is added by its module and one line of the registry."""
    naming = {
        module
        for module in MODULES.keys() - OF_METHODS
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in METHODS
    }
    assert naming == {
        "ssltool.methods",
        "ssltool.methods.recipes",
        "ssltool.config.pretrain",  # the default of --method
        "ssltool.cli.pretrain",  # the paper's spellings
        "ssltool.foreign.layouts",  # other programs, which are called as their methods
        "ssltool.config.exchange",
        "ssltool.export",
    }


@pytest.mark.parametrize("module", MODULES)
def test_module_has_at_most_400_lines_and_no_function_more_than_60(module):
    assert len(MODULES[module].read_text().splitlines()) <= 400
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(module) if f.end_lineno - f.lineno >= 60}
    assert long == {}


@pytest.mark.parametrize("module", MODULES)
def test_no_assert_no_bare_except_no_unsafe_load(module):
    for node in ast.walk(tree(module)):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"line {node.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            safe = [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg == "weights_only"]
            assert safe == ["True"], f"line {node.lineno}"
    assert "weights_only=False" not in MODULES[module].read_text()


@pytest.mark.parametrize("module", [m for m in MODULES if MODULES[m].read_text().strip()])
def test_module_says_what_it_is_for(module):
    assert ast.get_docstring(tree(module))


def test_stages_are_modules_of_their_own():
    wanted = {"ssltool.pretrain", "ssltool.save_reprs", "ssltool.knn", "ssltool.lincls", "ssltool.build"}
    assert wanted <= set(STAGES)


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_and_classes_have_docstrings(module):
    assert [node.name for node in public(module) if not ast.get_docstring(node)] == []
