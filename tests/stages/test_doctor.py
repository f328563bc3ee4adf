"""``doctor``: what is installed, what the machine has, and what follows from it."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ssltool.stages.doctor import doctor, installed, speed_test
from ssltool.stages.doctor.doctor import notes, problems
from ssltool.stages.doctor.installed import EXTRAS, REQUIRED, extras, required_packages
from ssltool.stages.doctor.machine import folder, memory

ROOT = Path(__file__).parent.parent.parent
OF_DEVELOPERS = {"test", "docs", "bench", "study", "programs"}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def healthy(**changes: Any) -> dict[str, Any]:
    """A document without notes and problems, but for the changes."""
    return {
        "packages": [{"name": "torch", "problem": None, "seconds": 2.0, "computing": 2.0}],
        "folders": [{"path": "/runs", "free_bytes": 2**40, "problem": None}],
        "memory": {"shared_free_bytes": 2**33},
        "open_files": 4096,
        "cpu": {"cores": 4},
        "torch": {"threads": 4, "built_for": "the CPU"},
        "devices": [],
        "nvidia_driver": False,
        "environment": {},
    } | changes


@pytest.fixture
def fake_packages(monkeypatch, tmp_path):
    """Puts modules before all others: ``fake_packages(name=source)``, and makes them the required ones."""

    def put(**sources: str) -> None:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(installed, "REQUIRED", {name: name for name in sources})

    return put


def test_required_packages_are_those_of_setup_cfg():
    lines = setup_cfg()["options"]["install_requires"].split("\n")
    assert {line.partition(">")[0] for line in lines if line} == set(REQUIRED)


def test_extras_are_those_of_setup_cfg_for_users():
    found = set(setup_cfg()["options.extras_require"]) - OF_DEVELOPERS
    assert found == set(EXTRAS)


def test_required_packages_work_and_their_versions_are_those_installed():
    found = {one["name"]: one for one in required_packages()}
    assert [one["problem"] for one in found.values()] == [None] * len(REQUIRED)
    assert found["torch"]["version"].split("+")[0] == importlib.metadata.version("torch").split("+")[0]


def test_a_package_that_fails_or_ends_python_is_named_with_the_reason(fake_packages):
    fake_packages(
        good="__version__ = '1.2'",
        broken="print('noise'); raise OSError('libGL.so.1: cannot open shared object file')",
        deadly="import os, signal; os.kill(os.getpid(), signal.SIGILL)",
        later="",
    )
    good, broken, deadly, later = required_packages()
    assert (good["version"], good["problem"]) == ("1.2", None)
    assert broken["problem"] == "OSError: libGL.so.1: cannot open shared object file"
    assert "SIGILL" in deadly["problem"]
    assert later["problem"] is not None
    lines = problems(healthy(packages=[good, broken, deadly, later]))
    assert [line.split(":")[0] for line in lines] == ["broken", "deadly", "later"]


def test_an_extra_is_present_only_with_all_its_packages(monkeypatch):
    monkeypatch.setattr(installed, "EXTRAS", {"some": (("click", "no_such_package"), ""), "all": (("click",), "")})
    some, all_ = extras()
    assert (some["present"], all_["present"]) == (False, True)
    assert some["packages"] == {"click": importlib.metadata.version("click"), "no_such_package": None}


def test_a_healthy_machine_has_neither_notes_nor_problems():
    assert (notes(healthy()), problems(healthy())) == ([], [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"torch": {"threads": 16, "built_for": "the CPU"}}, "OMP_NUM_THREADS=4"),
        ({"nvidia_driver": True}, "built for the CPU"),
        ({"nvidia_driver": True, "environment": {"CUDA_VISIBLE_DEVICES": ""}}, "CUDA_VISIBLE_DEVICES hides"),
        ({"open_files": 256}, "ulimit -n"),
        ({"memory": {"shared_free_bytes": 64 * 10**6}}, "--shm-size"),
        ({"folders": [{"path": "/runs", "free_bytes": 10**8, "problem": None}]}, "/runs has only 100 MB free"),
        ({"packages": [{"name": "torch", "problem": None, "seconds": 60.0, "computing": 3.0}]}, "60 s, 3 s"),
    ],
)
def test_each_cause_of_slowness_has_one_note_with_what_to_do(changes, words):
    (note,) = notes(healthy(**changes))
    assert words in note


def test_a_busy_processor_is_no_slow_disk():
    assert notes(healthy(packages=[{"name": "torch", "problem": None, "seconds": 60.0, "computing": 59.0}])) == []


def test_what_is_unknown_makes_no_note():
    unknown = healthy(open_files=None, memory={"shared_free_bytes": None}, torch=None)
    assert notes(unknown) == []


def test_a_folder_is_written_and_left_as_it_was(tmp_path):
    found = folder(str(tmp_path), timed=True)
    assert found["problem"] is None
    assert found["mb_per_second"] > 0
    assert os.listdir(tmp_path) == []


def test_memory_is_in_bytes_and_what_is_available_is_part_of_it():
    found = memory()
    assert 0 < found["available_bytes"] <= found["bytes"]
    assert found["limit_bytes"] is None or found["limit_bytes"] < found["bytes"]


def test_command_describes_the_machine_and_exits_with_1_for_a_folder_that_cannot_be_written(
    ssltool, tmp_path, monkeypatch
):
    ran = ssltool("doctor", "--no-speed", "--json", tmp_path)
    assert ran.code == 0
    assert ran.json["problems"] == []
    assert ran.json["speed"] is None
    assert {one["path"] for one in ran.json["folders"]} >= {os.getcwd(), str(tmp_path)}
    monkeypatch.setattr(doctor, "required_packages", list)  # which takes seconds
    missing = ssltool("doctor", "--no-speed", tmp_path / "missing")
    assert missing.code == 1
    assert "missing: cannot be written" in missing.out


def test_speeds_are_measured_and_compared_with_the_reference(monkeypatch):
    monkeypatch.setattr(speed_test, "SECONDS", 0.01)
    monkeypatch.setattr(speed_test, "SIDE", 64)
    monkeypatch.setattr(
        speed_test, "TRAINING", ("-a", "resnet18_w8", "-b", "32", "--steps-per-epoch", "2", "--epochs", "2")
    )
    found = speed_test.speed_test("cpu", "bf16")["measured"]
    assert [one["name"] for one in found if one["reference"] is None] == ["matrix product, bf16"]
    for one in found:
        assert one["value"] > 0
        if one["reference"] is not None:
            assert one["ratio"] == pytest.approx(one["value"] / one["reference"], rel=0.02, abs=0.01)


def test_the_stage_starts_without_torch():
    code = "import sys, ssltool.stages.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
