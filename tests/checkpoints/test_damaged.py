"""Damaged checkpoints of other programs: described or refused in one line, by every reader."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from checkpoint_helpers import PROGRAMS
from ssltool.checkpoints.convert import read_checkpoint
from ssltool.config import InspectConfig
from ssltool.errors import SSLToolError
from ssltool.stages.inspect import run as inspect


def cyclic() -> dict[str, Any]:
    again: dict[str, Any] = {}
    again["again"] = again
    return again


def nested() -> list[Any]:
    value: list[Any] = []
    for _ in range(300):
        value = [value]
    return value


ODD = {
    "none": None,
    "text": "x\n\x1b[31m\u202e",
    "a number": 10**30,
    "nan": float("nan"),
    "a recursive dict": cyclic(),
    "nested lists": nested(),
    "a 0-d tensor": torch.tensor(1.0),
    "a sparse tensor": torch.ones(2, 2).to_sparse(),
    "a meta tensor": torch.ones(10**6, 10**6, device="meta"),
    "an expanded tensor": torch.ones(()).expand(10**9),
    "a complex tensor": torch.ones(8, dtype=torch.complex64),
    "8-bit floats": torch.ones(8).to(torch.float8_e4m3fn),
    "a dict of other keys": {1: torch.ones(2), (2, 3): {"a": torch.ones(2)}, "b\n": torch.ones(2)},
}


@pytest.mark.parametrize("program", ["simsiam", "bare weights"])
def test_any_entry_may_be_anything(program, tmp_path):
    """What is read is either a checkpoint or one line that names the file; ``inspect`` describes all of them."""
    path = tmp_path / "damaged.pth"
    good = PROGRAMS[program]().entries
    container = next((key for key in ("state_dict", "teacher", "model") if key in good), None)
    weights = good if container is None else good[container]
    names = [next(iter(weights)), "more\x1b"]
    for odd in ODD.values():
        for name in names:
            damaged = {**weights, name: odd}
            torch.save(damaged if container is None else {**good, container: damaged}, path)
            check(path)
        for key in ("epoch", container) if container else ():
            torch.save({**good, key: odd}, path)
            check(path)


def check(path) -> None:
    message = str(path)
    try:
        read_checkpoint(path)
    except SSLToolError as error:
        message = str(error)
    assert str(path) in message and "\n" not in message
    (about,) = inspect(InspectConfig(files=(str(path),), keys=True))
    assert about["kind"] in ("checkpoint", "weights", "dict")
