"""What ``ssltool doctor`` finds, and what it makes of it."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from pathlib import Path

import ssltool
from ssltool.config import DoctorConfig
from ssltool.data.shared_memory import SHARED_MEMORY
from ssltool.errors import SSLToolError
from ssltool.settings import Record
from ssltool.stages.doctor import machine
from ssltool.stages.doctor.installed import extras, required_packages

SLOW_IMPORT = 15.0
"""Seconds of all imports, without those of the processor, above which a note says so."""

LITTLE_SPACE = 2**30
LITTLE_SHARED = 2**30
"""Bytes of free space on a disk, and of shared memory, below which a note says so."""

FEW_FILES = 1024
"""Files that a process may have open, below which a note says so."""


def run(config: DoctorConfig) -> Record:
    """The stage: describes and checks the installation and the machine. Files that it writes are removed.

    Returns:
        {"ssltool", "path", "python", "system", "packages", "extras", "cpu", "memory", "open_files", "environment",
        "torch", "devices", "folders", "speed", "notes", "problems"}. "problems" are what makes commands fail, "notes"
        what makes them slow; each says what to do. "torch" is None if it cannot be imported, "speed" also without
        ``--speed``.
    """
    config.check()
    folders = dict.fromkeys([os.getcwd(), tempfile.gettempdir(), *map(os.path.abspath, config.folders)])
    found: Record = {
        "ssltool": ssltool.__version__,
        "path": str(Path(ssltool.__file__).parent),
        "python": {"version": platform.python_version(), "path": sys.executable},
        "system": platform.platform(),
        "packages": required_packages(),
        "extras": extras(),
        "cpu": machine.cpu(),
        "memory": machine.memory(),
        "open_files": machine.open_files(),
        "environment": machine.environment(),
        "nvidia_driver": machine.has_nvidia_driver(),
        "folders": [machine.folder(path, config.speed) for path in folders],
        "torch": None,
        "devices": [],
        "speed": None,
    }
    failed = []
    if not any(one["problem"] for one in found["packages"]):
        from ssltool.stages.doctor.torch_devices import gpus, of_torch

        found |= {"torch": of_torch(), "devices": gpus()}
        if config.speed:
            from ssltool.stages.doctor.speed_test import speed_test

            try:
                found["speed"] = speed_test(found["torch"]["device"], found["torch"]["precision"])
            except SSLToolError as error:
                failed = [str(error)]
    return found | {"notes": notes(found), "problems": [*problems(found), *failed]}


def problems(found: Record) -> list[str]:
    """What makes commands fail, and what to do."""
    lines = [
        f"{one['name']}: {one['problem']}; reinstall it: pip install --force-reinstall {_to_install(one['name'])}"
        for one in found["packages"]
        if one["problem"]
    ]
    return lines + [f"{one['path']}: {one['problem']}" for one in found["folders"] if one["problem"]]


def _to_install(name: str) -> str:
    """torch and torchvision fit each other only in pairs."""
    return "torch torchvision" if name in ("torch", "torchvision") else name


def notes(found: Record) -> list[str]:
    """What makes commands slow, or may make them fail later, and what to do."""
    lines = []
    seconds, computing = (sum(one[key] or 0 for one in found["packages"]) for key in ("seconds", "computing"))
    if seconds - computing > SLOW_IMPORT:
        lines.append(
            f"importing the packages took {seconds:.0f} s, {computing:.0f} s of them computing: other programs are "
            "running, or the environment is on a slow disk; move it to a local one"
        )
    for one in found["folders"]:
        if one["free_bytes"] is not None and one["free_bytes"] < LITTLE_SPACE:
            lines.append(f"{one['path']} has only {one['free_bytes'] / 1e6:,.0f} MB free")
    shared = found["memory"]["shared_free_bytes"]
    if shared is not None and shared < LITTLE_SHARED:
        lines.append(
            f"{SHARED_MEMORY} has only {shared / 1e6:,.0f} MB, so batches of worker processes may not fit; "
            "enlarge it (docker run --shm-size=8g), or use a smaller -j"
        )
    if found["open_files"] is not None and found["open_files"] < FEW_FILES:
        lines.append(f"a process may open only {found['open_files']} files; ulimit -n {FEW_FILES} raises that")
    return lines + _about_torch(found)


def _about_torch(found: Record) -> list[str]:
    torch, lines = found["torch"], []
    if torch is None:
        return []
    if found["nvidia_driver"] and not found["devices"]:
        hidden = found["environment"].get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        why = (
            "CUDA_VISIBLE_DEVICES hides them"
            if hidden
            else f"torch is built for {torch['built_for']}; install one that fits the driver (https://pytorch.org)"
        )
        lines.append(f"this machine has NVIDIA GPUs that torch does not find: {why}")
    if torch["threads"] > found["cpu"]["cores"]:
        lines.append(
            f"torch has {torch['threads']} threads on {found['cpu']['cores']} usable cores, which is slow; set "
            f"OMP_NUM_THREADS={found['cpu']['cores']}"
        )
    return lines
