"""Runs of all methods, interrupted after any step and resumed, are bit-identical to uninterrupted runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import records, same_run, slow_but
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.config import PretrainConfig
from ssltool.errors import Interrupted
from ssltool.methods import METHODS
from ssltool.stages.pretrain import run as pretrain
from tiny_methods import QUICK, tiny_config

SCHEDULE = {"epochs": 2, "steps_per_epoch": 2}

VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "deepcluster in a single pass": ("deepcluster", {}, {"strategy": "current"}),
    "swav with its queue in use": ("swav", {"queue": 32}, {}),
    "teacher as a copy": ("teacher", {"update": "copy"}, {}),
    "teacher by the gradient": ("teacher", {"update": "sgd"}, {}),
    "moco, symmetric, with adamw": ("moco", {"symmetric": True}, {"optimizer": "adamw"}),
    "moco, symmetric with two queues": ("moco", {"symmetric": True, "queued": "separate"}, {}),
    "byol with an independent teacher": ("byol", {"independent_teacher": True}, {}),
    "vicreg with regularisers": ("vicreg", {}, {"regularise": ("vne=0.1", "koleo=1@projector", "orthogonality=1e-3")}),
    "dinov2 with Gram anchoring": ("dinov2", {"gram": 1.0, "gram_start": 0.5}, {}),
    "dino with trained lengths": ("dino", {"norm_last_layer": False}, {}),
}
CASES = {name: (name, {}, {}) for name in METHODS} | VARIANTS


@pytest.fixture(scope="module")
def made(tmp_path_factory, trained):
    """The settings of a case's run into a folder of this module: ``made(name, "whole")``."""
    folder = tmp_path_factory.mktemp("resume")

    def make(name: str, out: str) -> PretrainConfig:
        method, options, settings = CASES[name]
        place = folder / str(list(CASES).index(name)) / out
        return tiny_config(method, place, trained, options=options, **(SCHEDULE | settings))

    return make


EVERY_STEP = ("simsiam", "moco", "deepcluster in a single pass", "dinov2 with Gram anchoring")
"""Cases that are interrupted after every step, again and again; the others after one, which differs."""


@pytest.mark.parametrize("name", slow_but((*QUICK, *VARIANTS), CASES))
def test_an_interrupted_run_resumes_bit_identically(made, interrupt_at, name):
    """After the first step, at the end of the first epoch, or within the second."""
    never = pretrain(made(name, "whole"))
    config = dataclasses.replace(made(name, "stopped"), resume="auto")
    steps = (1, 2, 3)
    for step in steps if name in EVERY_STEP else steps[list(CASES).index(name) % 3 :][:1]:
        interrupt_at(step - 1)
        with pytest.raises(Interrupted):
            pretrain(config)
        newest = Checkpoint.load(Path(config.out) / "checkpoint.pt")
        assert (newest.step, newest.epoch, newest.metrics["epoch_step"]) == (step, step // 2, step % 2)
    assert same_run(never, pretrain(config))


LATER = {
    "moco": ("hidden", "queued"),
    "nnclr": ("last_bn_affine",),
    "dino": ("norm_last_layer", "drop_path"),
    "byol": ("independent_teacher",),
}
"""Options that are newer than the methods, or have another default than at first."""


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in LATER), ("moco", {"symmetric": True})])
def test_a_run_of_an_earlier_version_resumes_with_what_its_options_amounted_to(
    tmp_path, trained, interrupt_at, name, options
):
    """Its file lacks the newer options, and the command that resumes it names none of them."""
    was = {"hidden": 32} | ({"queued": "second"} if options else {}) if name == "moco" else {}
    never = pretrain(tiny_config(name, tmp_path / "whole", trained, options=options | was, **SCHEDULE))
    interrupt_at(0)
    config = tiny_config(name, tmp_path / "stopped", trained, options=options | was, **SCHEDULE)
    with pytest.raises(Interrupted):
        pretrain(config)
    older = Checkpoint.load(tmp_path / "stopped" / "checkpoint.pt")
    for option in LATER[name]:
        if option != "hidden":
            del older.config["method_options"][option]
    older.save(tmp_path / "stopped" / "checkpoint.pt")
    plain = tuple(pair for pair in config.options if pair.partition("=")[0] not in LATER[name])
    assert same_run(never, pretrain(dataclasses.replace(config, resume="auto", options=plain)))


def test_each_chunk_of_a_single_pass_is_new_to_deepcluster(made, interrupt_at):
    """What the case above is about: a chunk's images are embedded when its epoch starts, and no others are."""
    config = made("deepcluster in a single pass", "halfway")
    interrupt_at(1)
    with pytest.raises(Interrupted):
        pretrain(config)
    bank, filled = (Checkpoint.load(Path(config.out) / "checkpoint.pt").state_dict[name] for name in ("bank", "filled"))
    order = np.load(Path(config.out) / "order.npy")
    assert filled[order[:80]].all() and not filled[order[80:]].any()
    torch.testing.assert_close(bank[:, filled].norm(dim=2), torch.ones(2, 80))
    assert not bank[:, ~filled].any()


def test_queue_of_swav_takes_part_in_the_case_above(made):
    """It holds one batch, and counts from the second step on; one of two batches is not yet full by then."""
    config = made("swav with its queue in use", "queue")
    losses = []
    for queue in (32, 64):
        options = tuple(f"queue={queue}" if option.startswith("queue=") else option for option in config.options)
        for steps in (1, 2):
            changes = {"options": options, "epochs": 1, "steps_per_epoch": steps, "overwrite": True}
            losses.append(records(pretrain(dataclasses.replace(config, **changes)))[0]["loss"])
    assert losses[0] == losses[2]
    assert losses[1] != losses[3]
