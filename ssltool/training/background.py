"""Work beside the training, such as writing a checkpoint: a copy of the state, and a thread."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.training.progress import info

T = TypeVar("T")


class Background:
    """Runs tasks in their order on one thread. After one that fails, no more are run.

    As a context manager it waits for them at the end, and raises the error of one unless the block has raised another,
    which is then the one to report.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "ssltool-background")
        self._tasks: list[Future[object]] = []
        self._failed = False

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.wait()
        except SSLToolError as failure:
            if error is None:
                raise
            info(f"warning: {failure}")
        finally:
            self._thread.shutdown()

    def submit(self, task: Callable[[], object]) -> None:
        """Has ``task`` run after the earlier ones."""
        self._tasks.append(self._thread.submit(self._run, task))

    def has_failed(self) -> bool:
        """Whether a task has raised an error, which ``wait`` then raises."""
        return self._failed

    def wait(self) -> None:
        """Waits until all tasks are done, and raises the error of one that has failed."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.result()

    def _run(self, task: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            task()
        except BaseException:
            self._failed = True
            raise


def copied(value: T) -> T:
    """A deep copy of ``value`` whose tensors are on the CPU.

    Tensors that share memory do so in the copy, which keeps their strides, so that ``torch.save`` writes of it what it
    writes of tensors on the CPU themselves.
    """
    storages: dict[int, Any] = {}
    memo: dict[int, Any] = {}
    for tensor in _tensors(value):
        storage = tensor.untyped_storage()
        if storage._cdata not in storages:
            storages[storage._cdata] = storage.clone() if storage.device.type == "cpu" else storage.cpu()
        held = torch.empty(0, dtype=tensor.dtype)
        memo[id(tensor)] = held.set_(  # type: ignore[call-overload]
            storages[storage._cdata], tensor.storage_offset(), tensor.size(), tensor.stride()
        )
    return copy.deepcopy(value, memo)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inner)
