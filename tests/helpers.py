"""Plain functions that several tests use; fixtures are in ``conftest``."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ssltool.checkpoints.checkpoint import Checkpoint

TINY = ["-a", "resnet18_w8", "--stem", "small-stride2", "--image-size", "16", "--dim", "16", "--pred-dim", "8"]
"""Flags of a network that trains in milliseconds."""


@dataclass
class Ran:
    """What a command left: its exit code, and both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def slow_but(quick: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """Parameters of a test: all ``values``, of which ``make test`` runs the ``quick`` ones, and ``make slow`` the
    others."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


def usage_message(ran: Ran) -> str:
    """The message of a mistake on the command line, which is printed in click's form, with exit code 2."""
    assert (ran.code, ran.out) == (2, "")
    usage, *_, message = ran.err.splitlines()
    assert usage.startswith("Usage: ssltool ") and message.startswith("Error: ")
    return message


def error_message(ran: Ran) -> str:
    """The message of what files or data show to be wrong, which is one line, with exit code 1."""
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith("error: ")
    return ran.err


def records(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def same_bits(a: Any, b: Any) -> bool:
    """Whether two nested values are equal to the last bit; NaN equals nothing."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same_bits(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same_bits, a, b))
    return type(a) is type(b) and bool(a == b)


def assert_close(found: Any, wanted: Any, rel: float, at: str = "") -> None:
    """Compares nested results, numbers up to a relative difference."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), at
        for key in wanted:
            assert_close(found[key], wanted[key], rel, f"{at}.{key}")
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted), at
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_close(one, other, rel, f"{at}[{number}]")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=rel, abs=1e-14, nan_ok=True), at
    else:
        assert found == wanted, at


def same_run(a: Path, b: Path) -> bool:
    """Whether two checkpoints are the same moment of the same training, bit for bit; where they lie does not matter."""
    first, second = (Checkpoint.load(path / "checkpoint.pt" if path.is_dir() else path) for path in (a, b))
    keys = ("method", "arch", "epoch", "step", "state_dict", "optimizer", "scaler", "metrics")
    return all(same_bits(getattr(first, key), getattr(second, key)) for key in keys)
