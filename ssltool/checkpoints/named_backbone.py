"""A backbone whose architecture its files name, as those of transformers and timm do."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ssltool.checkpoints.match_architecture import BackboneSpec
from ssltool.data.preprocessing import Preprocessing
from ssltool.errors import SSLToolError
from ssltool.models.arch_name import parse


@dataclass(frozen=True)
class NamedBackbone:
    """A backbone that was read whole.

    Attributes:
        program: the program that trained the network, or the library that wrote the files.
        spec: how the backbone is built.
        weights: its state dict.
        left_out: the names of the modules that are not part of it, such as heads.
        preprocessing: the transform that it was trained for.
        notes: what was assumed, or was in the files and is not used, each in a few words.
        method: the method that trained it; None if it is unknown.
        epoch: completed epochs; None if they are unknown.
    """

    program: str
    spec: BackboneSpec
    weights: dict[str, Tensor]
    left_out: tuple[str, ...]
    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()
    method: str | None = None
    epoch: int | None = None


def check_given(path: object, found: str, arch: str | None, stem: str | None) -> None:
    """Checks that ``--arch`` and ``--stem`` do not contradict the architecture ``found`` at ``path``. A name without
    settings stands for all settings of its model.

    Raises:
        SSLToolError: if they do.
    """
    if stem not in (None, "auto"):
        raise SSLToolError(f"--stem {stem} has no effect with {path}, which contains {found}; leave it out")
    if arch in (None, found):
        return
    given, held = parse(str(arch)), parse(found)
    same = given is not None and held is not None and given[:2] == held[:2]
    if not same or given is None or held is None or not given.settings.items() <= held.settings.items():
        raise SSLToolError(f"--arch is {arch}, but {path} contains {found}; leave it out")


def left_out_modules(others: list[str], used: list[str]) -> tuple[str, ...]:
    """The modules that hold the weights ``others``: the first part of a name that no name in ``used`` has, and what is
    before it."""
    prefixes = {tuple(parts[:depth]) for name in used for parts in [name.split(".")] for depth in range(len(parts))}
    modules: dict[str, None] = {}  # an ordered set
    for name in others:
        parts = name.split(".")
        depth = next((d for d in range(1, len(parts)) if tuple(parts[:d]) not in prefixes), len(parts))
        modules[".".join(parts[:depth])] = None
    return tuple(modules)
