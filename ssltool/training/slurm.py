"""The variables that ``srun`` sets for the tasks of a job step, under the names of those that torchrun sets."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ssltool.errors import SSLToolError

TASKS = "SLURM_STEP_NUM_TASKS"
"""Set by srun only, unlike ``SLURM_NTASKS``, which a batch script has, too."""

SOURCES = {
    "WORLD_SIZE": TASKS,
    "RANK": "SLURM_PROCID",
    "LOCAL_RANK": "SLURM_LOCALID",
    "LOCAL_WORLD_SIZE": "SLURM_STEP_TASKS_PER_NODE",
    "MASTER_ADDR": "SLURM_STEP_NODELIST",
    "MASTER_PORT": "SLURM_JOB_ID",
}
"""Where the value of each of torchrun's variables comes from."""

FIRST_PORT, PORTS = 15_000, 15_000
"""The ranks meet at a port from 15000 to 29999, below those that Linux gives to outgoing connections. It follows from
the numbers of job and step, so that jobs on one machine rarely have the same."""


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables, from those of ``srun``; empty unless this is one of several tasks of a step.

    MASTER_ADDR and MASTER_PORT of the environment take precedence. A variable that ``srun`` did not set is left out.
    """
    if environ.get(TASKS, "1") == "1":
        return {}
    found = {name: environ[source] for name, source in SOURCES.items() if source in environ}
    if "LOCAL_WORLD_SIZE" in found:
        found["LOCAL_WORLD_SIZE"] = tasks_of_node(found["LOCAL_WORLD_SIZE"], environ.get("SLURM_NODEID", "0"))
    if "MASTER_ADDR" in found:
        found["MASTER_ADDR"] = first_host(found["MASTER_ADDR"])
    job, step = found.pop("MASTER_PORT", ""), environ.get("SLURM_STEP_ID", "0")
    if job.isdecimal():
        number = int(job) + 1009 * (int(step) if step.isdecimal() else 0)
        found["MASTER_PORT"] = str(FIRST_PORT + number % PORTS)
    return found | {name: environ[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in environ}


def tasks_of_node(text: str, node: str) -> str:
    """The number of tasks on the node number ``node`` of a step, from a list such as ``4(x2),1``.

    Raises:
        SSLToolError: if the list is not of this form or has no such node.
    """
    counts: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:\(x(\d{1,6})\))?", part)
        counts += [match[1]] * int(match[2] or 1) if match else []
    if not node.isdecimal() or int(node) >= len(counts):
        raise SSLToolError(
            f"the environment has SLURM_STEP_TASKS_PER_NODE={text!r} and SLURM_NODEID={node!r}, which do not fit; set "
            "WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT instead"
        )
    return counts[int(node)]


def first_host(nodes: str) -> str:
    """The first host of a list of Slurm such as ``gpu[07-09,12],cpu1``, or ``rack[1-2]node[01-04]``."""
    found, depth = "", 0
    for character in nodes:
        if character == "," and not depth:
            break
        depth += (character == "[") - (character == "]")
        found += character
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", found)
