"""What a folder of weights without a ``config.json`` is, and what to name or do instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

MOST = 10_000
"""Files of a folder that are looked at."""

WEIGHT_ENDINGS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tar", ".pkl", ".pyth", ".torch")
"""Ends of the names of files of weights, in the order in which one is proposed."""

OTHERS = ("optimizer", "scheduler", "scaler", "random_states", "rng_state", "training_args")
"""Beginnings of the names of what trainers save beside the weights."""


def describe_folder(folder: Path) -> str:
    """What ``folder`` holds, and what to do to read it; the file of weights to name, if there is one."""
    files = sorted(path for _, path in zip(range(MOST), _files(folder), strict=False))
    names = [path.name for path in files]
    if any(name.endswith(".distcp") for name in names):
        inner = next(path.parent for path in files if path.name.endswith(".distcp"))
        return (
            "it is a distributed checkpoint; convert it with python -m torch.distributed.checkpoint.format_utils "
            f"dcp_to_torch {inner} FILE.pt, and name FILE.pt"
        )
    states = next((path for path in files if path.name.endswith("model_states.pt")), None)
    if states is not None:
        return f"it is a checkpoint of DeepSpeed; name {states}, or with ZeRO-3 what its zero_to_fp32.py writes"
    index = next((path for path in files if path.name.endswith(".index.json")), None)
    if index is not None:
        return f"{index} lists shards of weights; copy the config.json of the network beside it, or save one file"
    found = [path for path in files if path.name.endswith(WEIGHT_ENDINGS) and not path.name.startswith(OTHERS)]
    order = sorted(found, key=lambda path: next(i for i, end in enumerate(WEIGHT_ENDINGS) if path.name.endswith(end)))
    return f"name a file, such as {order[0]}" if order else "name a file of weights"


def _files(folder: Path) -> Iterator[Path]:
    """The files in ``folder`` and in the folders in it."""
    try:
        for path in folder.iterdir():
            if path.is_dir():
                yield from (inner for inner in path.iterdir() if inner.is_file())
            elif path.is_file():
                yield path
    except OSError:  # a folder that may not be read
        return
