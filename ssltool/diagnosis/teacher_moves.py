"""How far the weights of a teacher and of its student moved since the training began, and how far apart they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssltool.errors import SSLToolError

SAMPLED = 1 << 16
"""Number of weights that are compared, evenly spaced over all; a network that moves moves these, too."""

TeacherNetworks = tuple[Sequence[nn.Module], Sequence[nn.Module]]
"""The modules of a student and of its teacher."""


@dataclass(frozen=True)
class TeacherMoves:
    """The weights of ``student`` and ``teacher`` at the beginning: a sample (n,) of each, float64."""

    student: Tensor
    teacher: Tensor

    @classmethod
    def since(cls, student: Sequence[nn.Module], teacher: Sequence[nn.Module]) -> TeacherMoves:
        """Remembers the present weights of both, which have the same parameters.

        Raises:
            SSLToolError: if they do not.
        """
        shapes = [[p.shape for module in modules for p in module.parameters()] for modules in (student, teacher)]
        if shapes[0] != shapes[1]:
            raise SSLToolError("teacher and student do not have the same parameters; give two networks of one kind")
        return cls(sampled_weights(student), sampled_weights(teacher))

    def numbers(self, student: Sequence[nn.Module], teacher: Sequence[nn.Module]) -> dict[str, float]:
        """``teacher_distance``, that of both relative to the norm of the student's weights, and ``student_move`` and
        ``teacher_move``, the distances from the beginning relative to the norm there; at least 0."""
        now, of_teacher = sampled_weights(student), sampled_weights(teacher)
        return {
            "teacher_distance": _relative(of_teacher, now),
            "teacher_move": _relative(of_teacher, self.teacher),
            "student_move": _relative(now, self.student),
        }


def sampled_weights(modules: Sequence[nn.Module]) -> Tensor:
    """At most ``SAMPLED`` parameters of ``modules`` (n,), evenly spaced, float64, on the CPU."""
    parameters = [p.detach().flatten() for module in modules for p in module.parameters()]
    step = max(1, -(-sum(map(len, parameters)) // SAMPLED))
    first, parts = 0, []
    for part in parameters:
        parts.append(part[first::step])
        first = (first - len(part)) % step
    return torch.cat(parts).cpu().double() if parts else torch.zeros(0, dtype=torch.float64)


def _relative(x: Tensor, y: Tensor) -> float:
    distance, norm = float((x - y).norm()), float(y.norm())
    return distance / norm if norm else distance
