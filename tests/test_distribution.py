"""The source distribution and the wheel that is built from it: what they hold, how large they are, and that the wheel
runs without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import ssltool

pytestmark = pytest.mark.xdist_group("distribution")  # they share what is built

ROOT = Path(ssltool.__file__).parent.parent
LIMIT = 5_000_000
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def build(kind: str, source: Path, out: Path) -> Path:
    """Builds a distribution of ``source`` with the installed setuptools, as pip does, without the network."""
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(out)]
    ran = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True)
    return out / ran.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The paths of the source distribution, and of the wheel built from what is in it."""
    folder = tmp_path_factory.mktemp("distributions")
    checkout = folder / "checkout"
    shutil.copytree(ROOT / "ssltool", checkout / "ssltool", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    source = build("sdist", checkout, folder)
    with tarfile.open(source) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return source, build("wheel", unpacked, folder)


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory):
    """A folder with the wheel installed in it."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*command, str(folder), str(distributions[1])], check=True)
    return folder


def test_both_are_smaller_than_5_mb(distributions):
    assert [path.name for path in distributions if not 0 < path.stat().st_size < LIMIT] == []


def test_wheel_holds_every_file_of_the_package_and_the_licence(distributions):
    with zipfile.ZipFile(distributions[1]) as archive:
        names = set(archive.namelist())
    expected = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "ssltool").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected >= {"ssltool/py.typed", "ssltool/data/bundled/LICENSE"}
    assert expected - names == set()
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names - expected} == {f"ssltool-{ssltool.__version__}.dist-info"}


def test_installed_wheel_trains_on_its_images_without_the_checkout(installed, tmp_path):
    code = (
        "import runpy, ssltool; print(ssltool.__file__, flush=True); runpy.run_module('ssltool', run_name='__main__')"
    )
    options = ["-a", "resnet18_w8", "-b", "32", "--epochs", "1", "--steps-per-epoch", "1", "-o", "run"]
    ran = subprocess.run(
        [sys.executable, "-c", code, "pretrain", *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout) == (0, f"{installed}/ssltool/__init__.py\nrun\n"), ran.stderr
    assert (tmp_path / "run/checkpoint.pt").exists()
