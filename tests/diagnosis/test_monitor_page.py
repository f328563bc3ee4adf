"""The examples of the monitor's page run, section by section, in one folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "monitor.md").read_text(encoding="utf-8")
NEEDS = {"import pytorch_lightning": ("pytorch_lightning",), "import transformers": ("transformers", "accelerate")}


@pytest.mark.filterwarnings("ignore")
def test_the_examples_of_the_page_run_and_its_commands_read_the_folder(tmp_path, monkeypatch, capsys, ssltool):
    monkeypatch.chdir(tmp_path)
    known: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        needed = [name for text, names in NEEDS.items() if text in block for name in names]
        if all(_is_installed(name) for name in needed):
            exec(block, known)
    shown = capsys.readouterr().out
    assert "step 20, " in shown and "averaged over its positions" in shown
    (tmp_path / "watched").rename(tmp_path / "other")
    (commands,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in commands.splitlines():
        arguments = ["other" if part in ("watched", "logs/mine") else part for part in shlex.split(line)[1:]]
        done = ssltool(*dict.fromkeys(arguments))
        assert done.code == 0, f"{line}: {done.err}"


def _is_installed(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True
