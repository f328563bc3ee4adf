"""Jobs: commands that take time, each in a process of its own with low priority, one at a time.

The server itself imports no torch. What takes more than reading records is done by the commands that do it anyway,
``ssltool diagnose --json``, say; their document is kept until another is asked for with a newer ``version``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from ssltool.files.text import one_line
from ssltool.settings import Record

LONGEST = 1800.0
"""Seconds after which a job is stopped."""

MOST_WAITING = 200
"""Jobs that may wait; more are refused."""

NICENESS = 10
"""With 19, a job would hardly advance beside a training that uses all cores."""

THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": "", "PYTHONUTF8": "1"}
"""A job takes one core, and nothing of the accelerator that a training uses."""


@dataclass
class Job:
    """A job: the arguments of Python, and what it found: the ``result``, or an ``error`` in one line."""

    arguments: Sequence[str]
    version: str
    state: str = "waiting"
    result: Record | None = None
    error: str = ""
    earlier: Record | None = field(default=None, repr=False)

    def as_dict(self) -> Record:
        """The job as plain values; while it is not done, the earlier result."""
        return {"state": self.state, "result": self.result or self.earlier, "error": self.error}


class Jobs:
    """The jobs of a server, by name. ``close`` stops them."""

    def __init__(self) -> None:
        self.environment = os.environ | THREADS
        self._jobs: dict[str, Job] = {}
        self._queue: list[Job] = []
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    def get(self, name: str) -> Job | None:
        """The job with this name, None if it was not asked for."""
        return self._jobs.get(name)

    def want(self, name: str, version: str, arguments: Sequence[str], *, again: bool = False) -> Job:
        """The job with this name, which is started unless it was for this ``version``; with ``again`` also if that one
        failed."""
        job = self._jobs.get(name)
        is_old = job is not None and (job.version != version or (again and job.state == "failed"))
        if job is None or (is_old and job.state not in ("waiting", "working")):
            if len(self._queue) >= MOST_WAITING:
                return Job(arguments, version, "failed", error="too many jobs are waiting")
            earlier = None if job is None else job.result or job.earlier
            job = self._jobs[name] = Job(arguments, version, earlier=earlier)
            self._queue.append(job)
            if self._task is None or self._task.done():
                self._task = asyncio.get_running_loop().create_task(self._work())
        return job

    async def close(self) -> None:
        """Stops the job that is at work, and forgets the others."""
        self._queue.clear()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _work(self) -> None:
        while self._queue:
            job = self._queue.pop(0)
            job.state = "working"
            try:
                job.result = await self._run(job.arguments)
                job.state = "done"
            except (OSError, ValueError) as error:
                job.state, job.error = "failed", one_line(error, 500)

    async def _run(self, arguments: Sequence[str]) -> Record:
        """The JSON document that Python prints with these arguments.

        Raises:
            ValueError: if it fails; the message is the last line of stderr.
        """
        command = ["nice", "-n", str(NICENESS), sys.executable, *arguments]
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=self.environment
        )
        try:
            out, errors = await asyncio.wait_for(self._process.communicate(), LONGEST)
        except asyncio.TimeoutError as error:
            raise ValueError(f"it took longer than {LONGEST:.0f} s and was stopped") from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        if self._process.returncode != 0:
            lines = errors.decode(errors="replace").strip().splitlines() or ["it failed and said nothing"]
            raise ValueError(lines[-1].removeprefix("error: "))
        document = json.loads(out)
        if not isinstance(document, dict):
            raise ValueError("it printed no document")
        return document
