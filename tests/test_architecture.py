"""The rules that keep the package readable, read from the source. Each test names all offenders."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import ssltool
from ssltool.cli import COMMANDS
from ssltool.methods import METHODS

ROOT = Path(ssltool.__file__).parent
MODULES = {
    ".".join(["ssltool", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
FOUNDATION = {"ssltool.errors", "ssltool.settings", "ssltool.registry", "ssltool.seeds"}
REGISTRIES = {"ssltool.training", "ssltool.viz", "ssltool.diagnosis.metrics", "ssltool.diagnosis.metrics.metric"}
"""Packages whose ``__init__`` holds names and facts only: settings take their names as choices."""
OF_METHODS = {METHODS[name].target.partition(":")[0].replace(".", "ssltool.methods.", 1) for name in METHODS}


def layer(module: str) -> int:
    """The public API and cli 3 -> stages 2 -> the library 1 -> config, registries and the foundation 0."""
    if module in FOUNDATION | REGISTRIES or module.startswith(("ssltool.config", "ssltool.files")):
        return 0
    part = module.split(".")[1] if "." in module else ""
    return {"stages": 2, "cli": 3, "__main__": 3, "": 3}.get(part, 1)


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


def on_import(module: str) -> set[str]:
    """The modules of the package that importing ``module`` imports, but for the packages that hold it."""
    top = [node for node in tree(module).body if not _is_type_checking(node)]
    packages = {module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)}
    return imports(module, iter(top)) & MODULES.keys() - {module, *packages}


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def functions(module: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(module)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def public(module: str) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Public functions and classes of a module, and public methods of classes that inherit none from another."""
    for node in tree(module).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef) and not node.bases:
                yield from (m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_"))


def test_no_two_modules_of_one_name_mean_different_things():
    """Except the name of a command in cli, config and stages, and a section of the report named after its subject."""
    commands = {name.replace("-", "_") for name in COMMANDS}
    names: dict[str, list[str]] = {}
    for module in MODULES:
        *package, name = module.split(".")
        of_command = name in commands and {*package} & {"cli", "config", "stages"}
        if not of_command and name != "__main__" and package[-1:] != ["sections"]:
            names.setdefault(name, []).append(module)
    assert [modules for modules in names.values() if len(modules) > 1] == []


def test_the_top_has_at_most_14_packages_and_6_modules():
    packages = [path for path in ROOT.iterdir() if (path / "__init__.py").exists()]
    modules = [path for path in ROOT.glob("*.py") if path.name != "__main__.py"]  # which only calls cli.main
    assert len(packages) <= 14
    assert len(modules) <= 6


def test_a_command_has_one_name_in_cli_config_and_stages():
    commands = {name.replace("-", "_") for name in COMMANDS}
    shared = {
        "cli": {"flags", "memory", "output", "parameter_types", "remedies", "streams"},
        "config": {"common", "fields"},
        "stages": {"results"},
    }
    for package, others in shared.items():
        found = {path.stem for path in (ROOT / package).iterdir() if path.name[0] not in "_."}
        assert found - others == commands, package


def test_imports_point_one_way():
    wrong = [
        f"{module} imports {imported}"
        for module in MODULES
        for imported in imports(module) & MODULES.keys()
        if layer(imported) > layer(module) and imported != "ssltool"
    ]
    assert wrong == []


def test_stages_do_not_import_one_another():
    """Except the live page, which shows what report shows and reads the logs that diagnose reads."""

    def stage(module: str) -> str:
        return module.split(".")[2] if module.startswith("ssltool.stages.") else ""

    pairs = {
        (stage(module), stage(imported))
        for module in MODULES
        for imported in imports(module) & MODULES.keys()
        if stage(module) and stage(imported) and stage(module) != "results"  # the API's steps after a result
    }
    found = {(one, other) for one, other in pairs if one != other}
    assert found == {("watch", "report"), ("watch", "diagnose")}


def test_modules_do_not_import_one_another_in_a_circle():
    waiting = {module: on_import(module) - {"ssltool"} for module in MODULES}
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


def test_opencv_is_imported_by_one_module_and_only_where_it_is_used():
    """A machine with a GPU trains on images in memory without it."""
    assert {m for m in MODULES if "cv2" in imports(m)} == {"ssltool.data.byte_ops"}
    assert [m for m in MODULES if "ssltool.data.byte_ops" in on_import(m)] == []


def test_settings_registries_and_errors_need_the_standard_library_only():
    wanted = [m for m in MODULES if m.startswith("ssltool.config")]
    wanted += ["ssltool", "ssltool.errors", "ssltool.settings", "ssltool.registry", *REGISTRIES]
    seen: set[str] = set()
    while wanted:
        module = wanted.pop()
        if module in seen:
            continue
        seen.add(module)
        top = [node for node in tree(module).body if not _is_type_checking(node)]
        for name in imports(module, iter(top)):
            if name in MODULES:
                wanted.append(name)
            else:
                assert name.split(".")[0] in sys.stdlib_module_names, f"{module} imports {name}"


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
        "ssltool.checkpoints.checkpoint_layouts",  # other programs, which are called as their methods
        "ssltool.checkpoints.timm_vits",  # models that are called as the methods they were trained with
        "ssltool.models.transformers_config",  # models of the same names
        "ssltool.stages.export",
    }


def test_modules_have_at_most_400_lines_and_functions_at_most_60():
    long = [f"{m}: {n}" for m, path in MODULES.items() if (n := len(path.read_text().splitlines())) > 400]
    long += [
        f"{module}.{f.name}: {f.end_lineno - f.lineno + 1}"
        for module in MODULES
        for f in functions(module)
        if f.end_lineno - f.lineno >= 60
    ]
    assert long == []


def test_no_assert_no_bare_except_no_unsafe_load():
    wrong = []
    for module, path in MODULES.items():
        for node in ast.walk(tree(module)):
            bare = isinstance(node, ast.ExceptHandler) and node.type is None
            unsafe = isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
            if unsafe:
                chosen = [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg == "weights_only"]
                unsafe = chosen != ["True"]
            if isinstance(node, ast.Assert) or bare or unsafe:
                wrong.append(f"{module} line {node.lineno}")
        if "weights_only=False" in path.read_text():
            wrong.append(f"{module}: weights_only=False")
    assert wrong == []


def test_modules_public_functions_and_classes_have_docstrings():
    assert [m for m, path in MODULES.items() if path.read_text().strip() and not ast.get_docstring(tree(m))] == []
    assert [f"{m}.{node.name}" for m in MODULES for node in public(m) if not ast.get_docstring(node)] == []
