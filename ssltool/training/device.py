"""Selection of the device, and autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from ssltool.config import DeviceSettings
from ssltool.errors import SSLToolError, UsageError
from ssltool.training import distributed
from ssltool.training.launch import started_by_srun

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(settings: DeviceSettings, *, local_rank: int = 0) -> torch.device:
    """The device of the settings; ``auto`` selects CUDA, then MPS, then the CPU.

    Raises:
        SSLToolError: if the device is not available, or ``--gpu`` is used under torchrun.
    """
    name = settings.device
    if settings.gpu is not None and distributed.under_torchrun():
        raise SSLToolError(f"--gpu {settings.gpu} would put all ranks on one GPU; leave it out under torchrun")
    if settings.gpu is not None and name == "auto":
        name = "cuda"
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        number = settings.gpu if settings.gpu is not None else local_rank
        if settings.gpu is None and found == 1 and started_by_srun():
            number = 0  # Slurm may show each task its own GPU alone
        if number >= found:
            ranked = f" (LOCAL_RANK={local_rank})" if settings.gpu is None and local_rank else ""
            raise SSLToolError(
                f"CUDA device {number}{ranked} is not available; CUDA devices found: {found}; "
                f"{'start fewer ranks on this machine, or ' if ranked else ''}try --device cpu"
            )
        torch.cuda.set_device(number)
        return torch.device("cuda", number)
    if name == "mps" and not torch.backends.mps.is_available():
        raise SSLToolError("--device mps is not available on this machine; try --device cpu")
    return torch.device(name)


def require_cuda(device: torch.device, flag: str) -> None:
    """Refuses ``flag`` on other devices than CUDA.

    Raises:
        UsageError: naming the flag and the device.
    """
    if device.type != "cuda":
        raise UsageError(f"{flag} needs a CUDA device, and this run is on {device.type}; leave it out")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Context manager for the precision of the forward pass; no autocast for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])
