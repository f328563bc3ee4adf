"""The gallery: its scripts are complete, its commands and code are valid, and the two quickest run."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import fork_server
import pytest
from test_docs import parse

ROOT = Path(__file__).resolve().parents[1]
GALLERY = ROOT / "docs" / "gallery"
EXAMPLES = sorted(path for path in GALLERY.iterdir() if path.suffix in (".py", ".sh") and path.stem != "run")
PYTHON = [path for path in EXAMPLES if path.suffix == ".py"]
BASH = [path for path in EXAMPLES if path.suffix == ".sh"]
STUB = '#!/bin/sh\nfor argument; do printf "%s\\0" "$argument"; done >>"$CALLS"\nprintf "\\n" >>"$CALLS"\n'
"""A program that runs nothing and appends its arguments to a file."""


def programs(folder: Path, *names: str) -> dict[str, str]:
    """The environment in which these names are the ``STUB``."""
    folder.mkdir()
    for name in names:
        (folder / name).write_text(STUB)
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "CALLS": str(folder / "calls")}


def test_every_example_has_a_title_a_text_a_small_picture_and_a_row_in_the_index():
    index = (GALLERY.parent / "gallery.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL)
    listed = [line for line in tree.splitlines() if line and not line.startswith(":")]
    rows = re.findall(r'^\| <img src="gallery/(\S+)\.png" .*\| \[([^]]*)\]\(gallery/(\S+)\)', index, re.MULTILINE)
    assert sorted(listed) == sorted(f"gallery/{path.stem}" for path in EXAMPLES)
    assert sorted(script for _, _, script in rows) == sorted(path.name for path in EXAMPLES)
    for picture, title, script in rows:
        text = (GALLERY / script).read_text(encoding="utf-8")
        assert picture == Path(script).stem
        assert text.startswith(f"# %% [markdown]\n# # {title}\n#\n# ")
        assert "\n# ## What to see\n#\n# " in text
        assert 1000 < (GALLERY / f"{picture}.png").stat().st_size <= 80_000
        assert f"{picture}.png" in text.replace("{stem}", picture)


@pytest.mark.parametrize("script", PYTHON, ids=lambda path: path.stem)
def test_every_cell_of_python_parses_by_itself(script):
    for cell in script.read_text(encoding="utf-8").split("# %%")[1:]:
        ast.parse(cell.partition("\n")[2])


@pytest.mark.parametrize("script", BASH, ids=lambda path: path.stem)
def test_every_command_of_a_bash_example_parses(script, tmp_path, monkeypatch, registries):
    environment = programs(tmp_path / "programs", "ssltool", "python")
    subprocess.run(["bash", script], cwd=tmp_path, env=environment, check=True)
    monkeypatch.chdir(tmp_path)
    calls = (tmp_path / "programs/calls").read_text().splitlines()
    commands = [call.split("\0")[:-1] for call in calls]
    commands = [command for command in commands if command[0] != "-"]  # python
    assert len(commands) >= script.read_text(encoding="utf-8").count("\nssltool ") > 0
    for command in commands:
        parse(command)
    for code in re.findall(r"<<'END'\n(.*?)^END$", script.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if "import " in code:
            ast.parse(code)


def test_the_quickest_example_of_python_runs(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with fork_server.running(server, GALLERY / "monitor-pytorch.py") as (command, _, err):
        assert command.wait() == 0, err.read()
    assert (tmp_path / "monitor-pytorch.png").exists()


def test_the_quickest_example_of_bash_runs(server, tmp_path):
    folder = tmp_path / "programs"
    environment = programs(folder)
    fork_server.shim(folder / "ssltool", server)
    done = subprocess.run(
        ["bash", GALLERY / "duplicates.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "duplicates.png").exists()
