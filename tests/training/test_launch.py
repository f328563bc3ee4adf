"""The launch environment is right as a whole, or refused in one line that names the variable."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import TINY, error_message
from ssltool.errors import SSLToolError
from ssltool.training.distributed import is_main
from ssltool.training.launch import Launch, launch, require_address

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MEETING = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Sets the whole launch environment: ``environment(RANK="1")``; at first it is empty."""

    def set_to(**values: str) -> None:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    set_to()
    return set_to


def test_without_variables_this_is_one_process(environment):
    assert launch() == Launch(0, 1, 0, 1) and is_main()


def test_what_torchrun_sets_for_one_process_is_one_process(environment):
    environment(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", **MEETING)
    assert launch() == Launch(0, 1, 0, 1) and is_main()


def test_the_variables_of_a_batch_script_or_of_mpi_do_not_count(environment):
    environment(SLURM_PROCID="1", SLURM_NTASKS="4", SLURM_LOCALID="1", OMPI_COMM_WORLD_RANK="1")
    assert launch() == Launch() and is_main()


@given(st.integers(2, 64), st.data())
def test_every_rank_of_every_world_is_read(world, data):
    rank, on_machine = data.draw(st.integers(0, world - 1)), data.draw(st.integers(1, world))
    local = data.draw(st.integers(0, on_machine - 1))
    values = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": on_machine}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, str(value))
        assert launch() == Launch(rank, world, local, on_machine)
        assert is_main() == (rank == 0)


BAD = [
    ({"RANK": "1"}, "RANK"),
    ({"RANK": "1", "WORLD_SIZE": "1"}, "RANK"),
    ({"RANK": ""}, "RANK"),
    ({"RANK": "abc"}, "RANK"),
    ({"RANK": "1.0"}, "RANK"),
    ({"RANK": "-1"}, "RANK"),
    ({"RANK": "\N{ARABIC-INDIC DIGIT ZERO}"}, "RANK"),
    ({"WORLD_SIZE": ""}, "WORLD_SIZE"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE"),
    ({"WORLD_SIZE": "-2"}, "WORLD_SIZE"),
    ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE"),
    ({"WORLD_SIZE": "1" + 30 * "0", "RANK": "0"}, "WORLD_SIZE"),
    ({"WORLD_SIZE": "2"}, "RANK"),
    ({"WORLD_SIZE": "2", "RANK": ""}, "RANK"),
    ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK"),
    ({"WORLD_SIZE": "2", "RANK": "5"}, "RANK"),
    ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "2"}, "LOCAL_RANK"),
    ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"}, "LOCAL_RANK"),
    ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE"),
    ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "tcp://10.0.0.1:80"}, "MASTER_PORT"),
    ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "70000"}, "MASTER_PORT"),
    ({"LOCAL_RANK": "1"}, "LOCAL_RANK"),
]


@pytest.mark.parametrize(("values", "name"), BAD)
def test_what_contradicts_itself_is_one_line_that_names_the_variable(environment, values, name):
    environment(**values)
    for read in (launch, is_main):
        with pytest.raises(SSLToolError, match=rf"\b{name}\b") as caught:
            read()
        assert "\n" not in str(caught.value) and "unset" in str(caught.value)


VALUES = {
    "RANK": [None, "", "abc", "-1", "0", "1", "7"],
    "WORLD_SIZE": [None, "", "two", "0", "1", "2"],
    "LOCAL_RANK": [None, "", "x", "0", "5"],
    "LOCAL_WORLD_SIZE": [None, "", "1", "3"],
    "MASTER_ADDR": [None, "", "localhost"],
    "MASTER_PORT": [None, "", "tcp://10.0.0.1:80", "29500", "70000"],
}


def message_here() -> str | None:
    """The message on the environment; None if it is right."""
    try:
        if launch().world > 1:
            require_address()
    except SSLToolError as error:
        return str(error)
    return None


@pytest.mark.parametrize("world", VALUES["WORLD_SIZE"])
@pytest.mark.parametrize("rank", VALUES["RANK"])
def test_the_advice_of_every_message_leaves_one_process_that_runs(environment, monkeypatch, world, rank):
    """The variables that a message says to unset are set, and without them this is one process of one."""
    others = [name for name in VALUES if name not in ("RANK", "WORLD_SIZE")]
    for values in itertools.product([rank], [world], *(VALUES[name] for name in others)):
        given = dict(zip(("RANK", "WORLD_SIZE", *others), values, strict=True))
        environment(**{name: value for name, value in given.items() if value is not None})
        message = message_here()
        if message is not None:
            names = re.search(r"unset ([A-Z_]+(?: and [A-Z_]+)*) to run one process", message)[1].split(" and ")
            assert all(given[name] is not None for name in names), message
            for name in names:
                monkeypatch.delenv(name)
            assert launch() == Launch(), message


def test_what_changes_nothing_for_one_process_does_not_matter(environment):
    """Kubernetes sets the port for a service of the name "master"."""
    environment(MASTER_PORT="tcp://10.0.0.1:80", LOCAL_WORLD_SIZE="4")
    assert launch() == Launch()


@pytest.mark.parametrize("missing", MEETING)
def test_ranks_need_a_place_to_meet(environment, missing):
    environment(RANK="0", WORLD_SIZE="2", **{name: value for name, value in MEETING.items() if name != missing})
    with pytest.raises(SSLToolError, match=missing):
        require_address()
    environment(RANK="0", WORLD_SIZE="2", **MEETING)
    assert require_address() == "localhost:29500"


COMMANDS = [
    ["pretrain", *TINY],
    ["save-reprs", "--pretrained", "a.pt"],
    ["cache", "a", "-o", "b"],
    ["knn", "a.pt", "b.pt"],
    ["lincls", "--reprs", "a.pt", "b.pt"],
    ["finetune", "--pretrained", "a.pt"],
    ["scan", "--pretrained", "a.pt"],
    ["collapse", "a.pt"],
    ["rank", "a"],
    ["plot", "spectrum", "a.pt", "-o", "a.svg"],
    ["report", "a"],
    ["inspect", "a.pt"],
    ["export", "a.pt"],
    ["methods"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=[command[0] for command in COMMANDS])
def test_every_command_refuses_a_rank_that_was_left_in_the_environment(
    ssltool, environment, monkeypatch, tmp_path, command
):
    monkeypatch.chdir(tmp_path)
    environment(RANK="1")
    assert "RANK" in error_message(ssltool(*command))
    assert list(tmp_path.iterdir()) == []


ON_RANKS = ("pretrain", "save-reprs", "lincls", "finetune", "scan", "knn", "collapse")
ALONE = [command for command in COMMANDS if command[0] not in ON_RANKS]


@pytest.mark.parametrize("command", ALONE, ids=[command[0] for command in ALONE])
def test_a_command_of_one_process_says_so_on_every_rank(ssltool, environment, command):
    for rank in "01":
        environment(RANK=rank, WORLD_SIZE="2", **MEETING)
        assert "torchrun" in error_message(ssltool(*command))


def test_help_does_not_depend_on_the_environment(ssltool, environment):
    environment(RANK="abc")
    assert ssltool("pretrain", "--help").code == 0


def test_a_missing_address_ends_training_before_it_begins(ssltool, environment, tmp_path):
    environment(RANK="0", WORLD_SIZE="2")
    ran = ssltool("pretrain", *TINY, "--device", "cpu", "-o", tmp_path / "run")
    assert "MASTER_ADDR" in error_message(ran)
    assert not (tmp_path / "run").exists()


def test_the_launch_environment_is_read_without_torch():
    program = "import sys, ssltool.training.launch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=os.environ).returncode == 0
