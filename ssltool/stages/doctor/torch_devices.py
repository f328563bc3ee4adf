"""What torch finds on this machine."""

from __future__ import annotations

import torch

from ssltool.config import DeviceSettings
from ssltool.settings import Record
from ssltool.training.device import pick_device
from ssltool.training.precision import native_precision


def of_torch() -> Record:
    """{"threads", "built_for", "device" and "precision": what ``auto`` is for ``--device`` and ``--precision``}."""
    device = pick_device(DeviceSettings())
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else "the CPU"
    return {
        "threads": torch.get_num_threads(),
        "built_for": built_for,
        "device": str(device),
        "precision": native_precision(device),
    }


def gpus() -> list[Record]:
    """The CUDA devices: {"name", "bytes", "capability"}."""
    if not torch.cuda.is_available():
        return []
    found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [{"name": one.name, "bytes": one.total_memory, "capability": f"{one.major}.{one.minor}"} for one in found]
