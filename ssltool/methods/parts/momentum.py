"""Momentum teachers: exponential moving averages (EMA) of the student's weights."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssltool.methods.base import Method
from ssltool.training.schedule import cosine


class MomentumMethod(Method):
    """Base class of methods whose targets come from ``teacher``, an EMA of the network's weights.

    The options have ``momentum`` and ``momentum_final``. A subclass calls ``make_teacher`` after it has created the
    modules in ``TEACHER_MODULES``. The teacher's batch norms use their own batch and running statistics, as in the
    papers. MoCo v3 and the collapse paper's BYOL update the teacher at the start of the next forward pass, which shifts
    the momentum schedule by one step.
    """

    TEACHER_MODULES: ClassVar[tuple[str, ...]] = ("backbone", "projector")
    teacher: nn.ModuleDict

    def make_teacher(self, **modules: nn.Module) -> None:
        """Creates the teacher, without gradients: from ``modules``, by default copies of the network's."""
        made = modules or {name: copy.deepcopy(getattr(self, name)) for name in self.TEACHER_MODULES}
        self.teacher = nn.ModuleDict(made).requires_grad_(False)

    @torch.no_grad()
    def teacher_forward(self, view: Tensor) -> Tensor:
        """The output (N, D) of the teacher for a view, in float32."""
        for name in self.TEACHER_MODULES:
            view = self.teacher[name](view)
        return view.float()

    def after_step(self) -> None:
        """Updates the teacher after each optimiser step."""
        self.update_teacher(momentum_at(self.progress, self.options))

    def collapse_causes(self) -> dict[str, bool]:
        start, end = self.options.momentum, self.options.momentum_final
        return super().collapse_causes() | {
            "the teacher is a copy of the network (momentum=0)": start == 0,
            "the teacher keeps its random weights (momentum=1)": start == 1 and end in (None, 1),
        }

    def teacher_pair(self) -> tuple[list[nn.Module], list[nn.Module]]:
        names = self.TEACHER_MODULES
        return [getattr(self, name) for name in names], [self.teacher[name] for name in names]

    def update_teacher(self, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * network."""
        for name in self.TEACHER_MODULES:
            ema_update(self.teacher[name], getattr(self, name), momentum)


def teacher_network(method: Method) -> Method | None:
    """``method`` with its momentum teacher's modules, shared with it, in the place of its own; None if it has no such
    teacher."""
    if not isinstance(method, MomentumMethod):
        return None
    network = copy.copy(method)
    heads = {name: nn.Identity() for name in ("projector", "predictor") if name not in method.teacher}
    network.__dict__["_modules"] = method._modules | heads | dict(method.teacher.items())
    return network


def momentum_at(progress: float, options: Any) -> float:
    """The teacher's momentum at ``progress`` in [0, 1]: constant, or a cosine schedule (Eq. 8 of arXiv:2006.07733)."""
    if options.momentum_final is None:
        return float(options.momentum)
    return cosine(progress, options.momentum, options.momentum_final)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, for each parameter. Buffers do not change."""
    pairs = [(t.data, s.data) for t, s in zip(teacher.parameters(), student.parameters(), strict=True)]
    torch._foreach_lerp_([t for t, _ in pairs], [s for _, s in pairs], 1.0 - momentum)
