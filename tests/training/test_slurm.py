"""The tasks of a step of Slurm are the ranks, by the variables that srun sets."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssltool.errors import SSLToolError
from ssltool.training.launch import PLACE, Launch, launch, one_process, require_address, started_by_srun
from ssltool.training.slurm import FIRST_PORT, PORTS, first_host, tasks_of_node, variables

STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "gpu[07-09]",
}
"""The last of five tasks, which is alone on the third node."""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Sets the whole launch environment; at first it is empty."""

    def set_to(**values: str) -> None:
        for name in (*PLACE, "MASTER_ADDR", "MASTER_PORT", *STEP):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    set_to()
    return set_to


def test_a_task_of_a_step_is_a_rank(environment):
    environment(**STEP)
    assert launch() == Launch(rank=4, world=5, local_rank=0, local_world=1)
    assert started_by_srun()


def test_a_step_of_one_task_is_one_process(environment):
    environment(**STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"})
    assert launch() == Launch() and not started_by_srun()


def test_the_batch_script_of_a_job_of_several_tasks_is_one_process(environment):
    in_script = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "5", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    environment(**in_script)
    assert launch() == Launch() and not started_by_srun()


@pytest.mark.parametrize("set_by_torchrun", [{"RANK": "1", "WORLD_SIZE": "2"}, {"WORLD_SIZE": "1"}])
def test_the_variables_of_torchrun_win(environment, set_by_torchrun):
    environment(**STEP | set_by_torchrun)
    world = int(set_by_torchrun["WORLD_SIZE"])
    assert launch() == Launch(rank=world - 1, world=world) and not started_by_srun()


def test_ranks_meet_at_the_first_node_at_a_port_of_job_and_step(environment):
    environment(**STEP)
    assert require_address() == f"gpu07:{FIRST_PORT + 4711}"
    ports = {variables(STEP | {"SLURM_STEP_ID": str(step)})["MASTER_PORT"] for step in range(10)}
    assert len(ports) == 10
    assert all(FIRST_PORT <= int(port) < FIRST_PORT + PORTS for port in ports)


def test_an_address_of_the_environment_is_used(environment):
    environment(**STEP | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"})
    assert require_address() == "10.0.0.1:29500"


def message_of_launch() -> None:
    launch()
    require_address()


@pytest.mark.parametrize("missing", ["SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID"])
def test_a_missing_variable_is_one_line_that_names_it(environment, missing):
    environment(**{name: value for name, value in STEP.items() if name != missing})
    with pytest.raises(SSLToolError, match=missing) as caught:
        message_of_launch()
    assert "\n" not in str(caught.value) and "WORLD_SIZE=1" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("SLURM_PROCID", "5"), ("SLURM_PROCID", "x"), ("SLURM_LOCALID", "3"), ("SLURM_STEP_NUM_TASKS", "0")],
)
def test_what_contradicts_itself_is_one_line_that_names_the_variable(environment, name, value):
    environment(**STEP | {name: value})
    with pytest.raises(SSLToolError, match=rf"{name}='{value}'") as caught:
        launch()
    assert "\n" not in str(caught.value)


def test_the_advice_leaves_one_process(environment):
    environment(**STEP)
    name, value = re.search(r"set (\w+)=(\d+) ", one_process()).groups()
    environment(**STEP | {name: value})
    assert launch() == Launch()


@pytest.mark.parametrize("node", ["3", "x", ""])
@pytest.mark.parametrize("text", ["2(x2),1", "", "2,,1", "two"])
def test_a_node_that_the_list_of_tasks_does_not_have_is_refused(text, node):
    with pytest.raises(SSLToolError, match="SLURM_STEP_TASKS_PER_NODE"):
        tasks_of_node(text, node)


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 5)), min_size=1, max_size=6))
def test_the_tasks_of_every_node_are_read(runs):
    text = ",".join(f"{count}(x{times})" if times > 1 else str(count) for count, times in runs)
    counts = [count for count, times in runs for _ in range(times)]
    assert [tasks_of_node(text, str(node)) for node in range(len(counts))] == [str(count) for count in counts]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("localhost", "localhost"),
        ("a,b", "a"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("n[3,1-2]", "n3"),
        ("n[2]", "n2"),
        ("rack[1-2]node[01-04]", "rack1node01"),
        ("n[1-2].example.org", "n1.example.org"),
        ("node-with-dashes[001-003]", "node-with-dashes001"),
    ],
)
def test_the_first_host_of_a_list(nodes, first):
    assert first_host(nodes) == first
