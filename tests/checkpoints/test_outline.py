"""The outline of a method has the names and shapes of its weights, and takes no memory."""

from __future__ import annotations

import pytest

from ssltool.checkpoints.build import build_method, outline_method
from ssltool.methods import METHODS
from ssltool.stages.pretrain.prepare import prepare
from tiny_methods import tiny_config


@pytest.mark.parametrize("method", METHODS)
def test_an_outline_has_the_shapes_of_the_method(method, trained, tmp_path):
    run = prepare(tiny_config(method, tmp_path, trained)).saved_run
    outline, built = outline_method(run).state_dict(), build_method(run).state_dict()
    assert {name: held.shape for name, held in outline.items()} == {name: held.shape for name, held in built.items()}


def test_an_outline_takes_no_memory_for_any_width(trained, tmp_path):
    run = prepare(tiny_config("simsiam", tmp_path, trained)).saved_run
    wide = run.updated(method_options={**run.settings["method_options"], "dim": 10**8})
    assert sum(held.numel() for held in outline_method(wide).state_dict().values()) > 10**11
