"""Teachers that follow the network they teach."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssltool.methods.base import Method
from ssltool.training.schedule import cosine


class MomentumMethod(Method):
    """A method whose targets come from ``teacher``, an average of the network's past weights.

    Its options have ``momentum`` and ``momentum_final``. A subclass calls ``make_teacher`` when the parts in ``TAUGHT``
    are there. The teacher's batch norms see their own batches and keep their own running statistics, as in all papers
    of this family. MoCo v3 and the collapse paper's BYOL move the teacher at the start of the next forward pass, which
    is the same but for one step of the schedule.
    """

    TAUGHT: ClassVar[tuple[str, ...]] = ("backbone", "projector")
    teacher: nn.ModuleDict

    def make_teacher(self) -> None:
        """Copies the network as it is; the copy takes no gradients."""
        student = nn.ModuleDict({name: getattr(self, name) for name in self.TAUGHT})
        self.teacher = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def teach(self, view: Tensor) -> Tensor:
        """The last output (N, D) of the teacher for a view, float32."""
        for name in self.TAUGHT:
            view = self.teacher[name](view)
        return view.float()

    def after_step(self) -> None:
        """The teacher takes its step after the network's."""
        self.move_teacher(momentum_at(self.progress, self.options))

    def causes(self) -> dict[str, bool]:
        start, end = self.options.momentum, self.options.momentum_final
        return super().causes() | {
            "the teacher is a copy of the network (momentum=0)": start == 0,
            "the teacher stays as random as it began (momentum=1)": start == 1 and end in (None, 1),
        }

    def move_teacher(self, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * network."""
        for name in self.TAUGHT:
            follow(self.teacher[name], getattr(self, name), momentum)


def momentum_at(progress: float, options: Any) -> float:
    """The teacher's momentum at ``progress``, from 0 to 1: constant, or along a cosine (Eq. 8 of arXiv:2006.07733)."""
    if options.momentum_final is None:
        return float(options.momentum)
    return cosine(progress, options.momentum, options.momentum_final)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, for every parameter; buffers are left alone."""
    pairs = [(t.data, s.data) for t, s in zip(teacher.parameters(), student.parameters(), strict=True)]
    torch._foreach_lerp_([t for t, _ in pairs], [s for _, s in pairs], 1.0 - momentum)
