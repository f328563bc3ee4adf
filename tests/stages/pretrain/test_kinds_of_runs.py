"""Short trainings that collapse on purpose, each in another way, and the kinds that the monitor names."""

from __future__ import annotations

import pytest

from helpers import records
from ssltool.stages.pretrain import run as pretrain
from tiny_methods import tiny_config


@pytest.mark.parametrize(
    ("method", "options", "kinds"),
    [
        ("vicreg", {"std": 0.0, "dim": 64}, {"scale"}),
        # At its end the run is between the two: rounding decides.
        ("simsiam", {"stop_grad": False}, {"complete", "dimensional"}),
    ],
)
def test_the_kind_of_a_run_without_the_part_that_prevents_it_is_named(tmp_path, method, options, kinds):
    schedule = {"epochs": 2, "steps_per_epoch": 20, "monitor_size": 160, "lr": 0.5}
    pretrain(tiny_config(method, tmp_path / "run", None, options=options, **schedule))
    *_, last = records(tmp_path / "run")
    assert last["kinds"].split(", ")[0] in kinds, last
