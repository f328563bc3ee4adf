"""A failed allocation is one line with the settings that asked for the memory."""

from __future__ import annotations

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from helpers import TINY, error_message
from ssltool.cli.flags import Command
from ssltool.errors import SSLToolError

HUGE = str(9 * 10**15)


@pytest.mark.parametrize("option", [["--dim", HUGE], ["--set", f"pred_dim={HUGE}"]])
def test_a_width_that_no_memory_holds_is_named_and_nothing_is_left(ssltool, tmp_path, option):
    ran = ssltool("pretrain", *TINY[:-4], *option, "--device", "cpu", "-o", tmp_path / "run")
    message = error_message(ran)
    assert f"{' '.join(option).rstrip('0').rstrip('9').rstrip('= ')} ({int(HUGE):,})" in message
    assert "--image-size" not in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("allocate", [lambda n: np.empty(n), lambda n: torch.empty(n), lambda n: bytearray(n)])
def test_an_allocation_of_any_library_is_told(allocate):
    command = Command("knn", callback=lambda count: allocate(count), params=[click.Option(["--count"], type=int)])
    found = CliRunner().invoke(command, ["--count", HUGE])
    assert isinstance(found.exception, SSLToolError) and "--count" in str(found.exception)


@pytest.mark.parametrize(
    ("text", "of_memory"),
    [
        ("can't start new thread", True),  # as Python says if there is no memory for its stack
        ("could not create a primitive", True),  # as oneDNN says
        ("could not create a primitive descriptor for the matmul primitive", False),
    ],
)
def test_messages_that_mean_a_failed_allocation_are_told(text, of_memory):
    def fail(count: int) -> None:
        raise RuntimeError(text)

    found = CliRunner().invoke(
        Command("knn", callback=fail, params=[click.Option(["--count"], type=int)]), ["--count", "9"]
    )
    assert isinstance(found.exception, SSLToolError) is of_memory


def test_other_errors_are_not_changed():
    def fail() -> None:
        raise RuntimeError("a mistake")

    assert "a mistake" in str(CliRunner().invoke(Command("knn", callback=fail), []).exception)
