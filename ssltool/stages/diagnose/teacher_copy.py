"""Compares the teacher and the student in one file, and the teachers of successive files.

A teacher that is equal to its student in every weight is a copy: its momentum is 0, or it is updated in the wrong
place. A teacher that stays the same while the student changes is not updated at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssltool.checkpoints.read import read_entries
from ssltool.files.placeholders import module_weights
from ssltool.files.stored import weights_hash
from ssltool.stages.diagnose.findings.finding import PARTIAL, Finding
from ssltool.stages.diagnose.tested_advice import MOMENTUM

PAIRS = {
    "teacher.": ("student.", "", "model."),
    "momentum_encoder.": ("base_encoder.", "encoder.", ""),
    "encoder_k.": ("encoder_q.",),
    "target_network.": ("online_network.",),
    "target_encoder.": ("online_encoder.", "encoder."),
    "momentum_backbone.": ("backbone.",),
    "ema.": ("model.", "state_dict."),
    "model_ema.": ("model.", "state_dict."),
}
"""Parts of the names of a teacher's parameters, and what stands there in the names of its student's."""

STATISTICS = ("running_mean", "running_var")
"""Buffers of batch norm, which differ and change also where no parameter does."""

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module")
DEEPEST = 4
FEWEST = 8
"""Fewest pairs of tensors that make two networks."""

REMEDIES = {
    "identical-teacher": (
        "its momentum is 0, or it was saved right after it was copied (as at the end of an epoch)",
        "set the momentum above 0 (0.996 is usual), and update the teacher after the optimiser's step",
        MOMENTUM,
    ),
    "stale-teacher": (
        "it is never updated: its momentum is 1, or the update is not called (a fixed, trained teacher is meant so)",
        "set the momentum below 1 (0.996 is usual), and check that the teacher's update is called",
        "",
    ),
}
"""The probable cause, the advice, and on what the advice was tested, of each kind."""


@dataclass(frozen=True)
class TeacherAndStudent:
    """The two networks of a file: the name of the ``teacher``, the number of ``tensors`` in both, the relative
    ``distance`` norm(student - teacher) / norm(student), and hashes of both."""

    teacher: str
    tensors: int
    distance: float
    teacher_hash: str
    student_hash: str


def compare_teacher(path: str) -> TeacherAndStudent | None:
    """The teacher and the student in the file ``path``; None if it does not hold both.

    Raises:
        SSLToolError: if the file cannot be read.
    """
    tensors = dict(_tensors(read_entries(path)))
    for name, students in PAIRS.items():
        for student in students:
            pairs = _pairs(tensors, name, student)
            if len(pairs) >= FEWEST:
                return _compared(name.rstrip("."), pairs)
    return None


def _tensors(value: Any, at: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors in nested dicts and modules, by their names; the keys of dicts are parts of these."""
    weights = module_weights(value)
    inner = weights if weights is not None else value
    if not isinstance(inner, Mapping) or depth > DEEPEST:
        return
    for key, held in inner.items():
        if not isinstance(key, str):
            continue
        name = ".".join([*([at] if at else []), *(part for part in key.split(".") if part not in WRAPPERS)])
        if isinstance(held, Tensor) and held.is_floating_point():
            yield name, held
        elif not isinstance(held, Tensor):
            yield from _tensors(held, name, depth + 1)


def _pairs(tensors: Mapping[str, Tensor], teacher: str, student: str) -> list[tuple[Tensor, Tensor]]:
    pairs = []
    for name, tensor in tensors.items():
        before, found, after = f".{name}".partition(f".{teacher}")
        if name.endswith(STATISTICS):
            continue
        other = tensors.get(f"{before}.{student}{after}".lstrip(".")) if found else None
        if other is not None and other.shape == tensor.shape:
            pairs.append((tensor, other))
    return pairs


def _compared(name: str, pairs: list[tuple[Tensor, Tensor]]) -> TeacherAndStudent:
    difference = sum(float((t.double() - s.double()).square().sum()) for t, s in pairs)
    norm = sum(float(s.double().square().sum()) for _, s in pairs)
    hashes = [weights_hash({str(number): pair[i] for number, pair in enumerate(pairs)}) for i in (0, 1)]
    return TeacherAndStudent(name, len(pairs), (difference / norm) ** 0.5 if norm else difference**0.5, *hashes)


def teacher_findings(compared: Mapping[str, TeacherAndStudent], epochs: Mapping[str, int | None]) -> list[Finding]:
    """Findings on the teachers of files, by their paths in order: identical to the student, or the same in all files.

    ``epochs`` are the completed epochs of the files, None where they are unknown. At epoch 0 a teacher is a copy.
    """
    found = []
    equal = [path for path, of in compared.items() if of.distance == 0 and epochs[path] != 0]
    if equal:
        line = f"the {compared[equal[0]].teacher} is equal to its student in every weight in {', '.join(equal)}"
        evidence: dict[str, float | str] = {"files": len(equal), "of": len(compared), "distance": 0.0}
        found.append(
            Finding("identical-teacher", PARTIAL, line, _since(epochs, equal), evidence, *REMEDIES["identical-teacher"])
        )
    teachers, students = ({of.__dict__[key] for of in compared.values()} for key in ("teacher_hash", "student_hash"))
    if len(compared) > 1 and len(teachers) == 1 and len(students) > 1:
        line = f"the teacher is the same in all {len(compared)} files, while the student changes"
        evidence = {"files": len(compared)}
        found.append(
            Finding(
                "stale-teacher", PARTIAL, line, _since(epochs, list(compared)), evidence, *REMEDIES["stale-teacher"]
            )
        )
    return found


def _since(epochs: Mapping[str, int | None], paths: list[str]) -> float | None:
    epoch = epochs[paths[0]]
    return None if epoch is None else float(epoch)
