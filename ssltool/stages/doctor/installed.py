"""Which packages are installed: the required ones, which are imported, and those of the extras."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Iterable

from ssltool.settings import Record

REQUIRED = {
    "click": "click",
    "numpy": "numpy",
    "scipy": "scipy",
    "pandas": "pandas",
    "tqdm": "tqdm",
    "matplotlib": "matplotlib",
    "opencv-python-headless": "cv2",
    "torch": "torch",
    "torchvision": "torchvision",
}
"""The required packages, and what is imported of each."""

EXTRAS = {
    "timm": (("timm",), "architectures of timm (-a timm:NAME), export to timm"),
    "transformers": (("transformers",), "models of transformers, names of published networks"),
    "lightning": (("pytorch_lightning",), "the monitor as a callback of PyTorch Lightning"),
    "safetensors": (("safetensors",), "reading and writing .safetensors"),
    "onnx": (("onnx", "onnxscript", "onnxruntime"), "export --to onnx"),
    "yaml": (("yaml",), "settings of other programs beside a checkpoint"),
    "parquet": (("pyarrow",), "tables and representations in Parquet files"),
    "hf": (("datasets",), "datasets of Hugging Face as DATA"),
    "tensorboard": (("tensorboard",), "pretrain --tensorboard"),
    "wandb": (("wandb",), "pretrain --wandb"),
    "watch": (("starlette", "uvicorn"), "the page of ssltool watch"),
}
"""What each extra of the package gives, and what is imported of it."""

IMPORT = """
import importlib, json, sys, time
for name in sys.argv[1:]:
    print(json.dumps({"begins": name}), flush=True)
    start = time.perf_counter(), time.process_time()
    try:
        module = importlib.import_module(name)
    except Exception as error:
        problem, version = f"{type(error).__name__}: {error}".splitlines()[0], None
    else:
        problem, version = None, getattr(module, "__version__", None)
    times = {"seconds": time.perf_counter() - start[0], "computing": time.process_time() - start[1]}
    print(json.dumps({"name": name, "version": version, "problem": problem, **times}), flush=True)
"""
"""Imports each of its arguments, and prints what it found."""


def required_packages() -> list[Record]:
    """The required packages, in the order of ``REQUIRED``: {"name", "version", "problem", "seconds" of the import,
    "computing": those of the processor}. They are imported in another process, because a broken one may end it."""
    ran = subprocess.run([sys.executable, "-c", IMPORT, *REQUIRED.values()], capture_output=True, text=True)
    lines = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"')]
    found = {line["name"]: line for line in lines if "name" in line}
    for line in lines:
        if "begins" in line and line["begins"] not in found:  # the process ended in this import
            found[line["begins"]] = _failed(_ended(ran.returncode))
    untried = _failed("not tried, because an earlier package ends Python")
    return [found.get(module, untried) | {"name": name} for name, module in REQUIRED.items()]


def _failed(problem: str) -> Record:
    return {"version": None, "problem": problem, "seconds": None, "computing": None}


def _ended(code: int) -> str:
    what = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"its import ends Python with {what}"


def extras() -> list[Record]:
    """The extras: {"name", "gives", "packages": {name: version or None}, "present"}. None is imported."""
    found, distributions = [], importlib.metadata.packages_distributions()  # once: it lists the files of every package
    for name, (modules, gives) in EXTRAS.items():
        packages = {module: _version(module, distributions.get(module, [module])) for module in modules}
        found.append({"name": name, "gives": gives, "packages": packages, "present": None not in packages.values()})
    return found


def _version(module: str, distributions: Iterable[str]) -> str | None:
    """The version of the first of the ``distributions`` that is installed, which have ``module``; "installed" if it has
    none, None if it is missing."""
    if importlib.util.find_spec(module) is None:
        return None
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "installed"
