"""The machine: processor, memory, limits, devices and folders."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path

from ssltool.data.shared_memory import SHARED_MEMORY
from ssltool.errors import first_line
from ssltool.settings import Record
from ssltool.training.processor import BF16_FLAGS, CPUINFO, cpu_flags, usable_cores

FEATURES = ("avx2", "avx512f", *BF16_FLAGS, "amx_int8", "asimd", "sve", "bf16")
"""Features of processors, as Linux names them, that decide how fast a network is computed."""

VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "KMP_AFFINITY", "GOMP_CPU_AFFINITY"),
    *("PYTORCH_CUDA_ALLOC_CONF", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "HF_HOME", "HF_HUB_OFFLINE", "TMPDIR"),
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_CPUS_PER_TASK"),
)
"""Variables of the environment that change how the commands run."""

CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files with the limit of memory of a container: version 2 and version 1."""

WRITTEN = 64 * 2**20
"""Bytes of the file that is written to measure the speed of a folder."""


def cpu() -> Record:
    """{"model", "cores": usable ones, "machine_cores", "features"}."""
    lines = _text(str(CPUINFO)).splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    flags = cpu_flags()
    return {
        "model": model or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "machine_cores": os.cpu_count(),
        "features": [name for name in FEATURES if name in flags],
    }


def memory() -> Record:
    """Bytes of memory, and of it available; the limit of the container, None if it has none; free shared memory. What
    the system does not tell is None."""
    of = dict(line.split(":", 1) for line in _text("/proc/meminfo").splitlines() if ":" in line)
    limits = [int(text) for text in (_text(path).strip() for path in CGROUPS) if text.isdecimal()]
    total = _kilobytes(of.get("MemTotal"))
    return {
        "bytes": total,
        "available_bytes": _kilobytes(of.get("MemAvailable")),
        "limit_bytes": next((limit for limit in limits if total is not None and limit < total), None),
        "shared_free_bytes": _free(SHARED_MEMORY),
    }


def open_files() -> int | None:
    """How many files a process may have open."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def environment() -> dict[str, str]:
    """The ``VARIABLES`` that are set."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def has_nvidia_driver() -> bool:
    """Whether the system has an NVIDIA GPU and its driver."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()


def folder(path: str, timed: bool) -> Record:
    """{"path", "free_bytes", "mb_per_second" of a file that is written and flushed (None if not ``timed``, or if there
    is little space), "problem"}. The file is removed."""
    found: Record = {"path": path, "free_bytes": _free(path), "mb_per_second": None, "problem": None}
    size = WRITTEN if timed and (found["free_bytes"] or 0) > 10 * WRITTEN else 1
    try:
        with tempfile.NamedTemporaryFile(dir=path, prefix=".ssltool-doctor-") as file:
            content = os.urandom(size)
            start = time.perf_counter()
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            seconds = time.perf_counter() - start
    except OSError as error:
        return found | {"problem": f"cannot be written: {first_line(error)}"}
    return found | {"mb_per_second": round(size / 1e6 / seconds) if size > 1 else None}


def _free(path: str) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _text(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace")
    return ""


def _kilobytes(text: str | None) -> int | None:
    """The bytes of a value such as ``24576 kB``."""
    return None if text is None else 1024 * int(text.split()[0])
