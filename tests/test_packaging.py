"""Installing: pip and conda bring the same, the data comes along, and a bare checkout works."""

from __future__ import annotations

import configparser
import fnmatch
import importlib
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import ssltool
from ssltool.cli import COMMANDS

ROOT = Path(ssltool.__file__).parent.parent
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib", "py-opencv": "opencv-python-headless"}
IMPORTED_AS = {"cv2": "opencv-python-headless"}


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def conda() -> list[str]:
    """The requirements of ``environment.yml``, without those that pip installs."""
    document = yaml.safe_load((ROOT / "environment.yml").read_text())
    return [entry for entry in document["dependencies"] if isinstance(entry, str)]


def versions(requirements: list[str]) -> dict[str, str]:
    """Name to version condition, under pip's names."""
    parts = [re.fullmatch(r"([\w-]+)\s*(.*)", requirement).groups() for requirement in requirements]
    return {CONDA_NAMES.get(name, name): condition for name, condition in parts}


def listed(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_conda_brings_what_pip_does(setup_cfg, conda):
    by_pip = versions(listed(setup_cfg["options"]["install_requires"]))
    by_conda = versions(conda)
    assert by_conda.pop("python") == setup_cfg["options"]["python_requires"]
    by_conda.pop("pip")
    assert by_conda == by_pip
    assert by_pip.keys() >= {"torch", "torchvision", "click", "numpy", "scipy", "pandas", "tqdm", "matplotlib"}


def test_everything_imported_is_required(setup_cfg):
    """The third-party packages that ssltool's sources import by name, at the top of a module. Those of the server of
    ``watch``, which is imported only to serve, are an extra."""
    required = versions(listed(setup_cfg["options"]["install_requires"])).keys()
    required |= versions(listed(setup_cfg["options.extras_require"]["watch"])).keys()
    found = set()
    for path in (ROOT / "ssltool").rglob("*.py"):
        found |= set(re.findall(r"^(?:import|from) (\w+)", path.read_text(), flags=re.MULTILINE))
    third_party = {IMPORTED_AS.get(name, name) for name in found if name not in sys.stdlib_module_names} - {"ssltool"}
    assert third_party - {"PIL"} <= required  # Pillow comes with torchvision


def test_extras_are_those_that_the_messages_name(setup_cfg):
    assert {"test", "docs", "tensorboard", "wandb"} <= set(setup_cfg["options.extras_require"])


def test_bundled_files_are_packaged(setup_cfg):
    patterns = listed(setup_cfg["options.package_data"]["ssltool.data.bundled"])
    folder = ROOT / "ssltool" / "data" / "bundled"
    files = [path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".py"]
    assert {"LICENSE", "README.md"} < set(files)
    assert [name for name in files if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not fnmatch.filter(files, pattern)] == []


def test_every_folder_of_modules_is_a_package():
    folders = {path.parent for path in (ROOT / "ssltool").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_entry_point_is_the_command_line(setup_cfg):
    (script,) = listed(setup_cfg["options.entry_points"]["console_scripts"])
    name, target = (part.strip() for part in script.split("="))
    module, _, function = target.partition(":")
    assert name == "ssltool"
    assert getattr(importlib.import_module(module), function) is ssltool.cli.main


def test_every_command_has_its_module():
    assert [name for name in COMMANDS if find_spec(f"ssltool.cli.{name.replace('-', '_')}") is None] == []


def test_version_is_told_from_a_checkout_that_is_not_installed():
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-m", "ssltool", "--version"]
    ran = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"ssltool, version {ssltool.__version__}\n", "")


def test_licence_is_there_and_named(setup_cfg):
    assert setup_cfg["metadata"]["license"] == "MIT"
    assert "MIT License" in (ROOT / setup_cfg["metadata"]["license_files"]).read_text()
