"""Builds optimizers by name, and implements those that torch does not have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from ssltool.config import PretrainConfig
from ssltool.training import OPTIMIZERS
from ssltool.training.schedule import rates_at

TRUST = 0.001
"""Trust coefficient of LARS and LARC in MoCo v3, SimSiam and the collapse paper."""

TINY = 1e-12
"""Lower bound of the learning rate where it is a divisor."""

FUSED = (torch.optim.Adam, torch.optim.AdamW)
"""Optimizers of which torch has a kernel that updates all parameters in one pass over the memory, in a third to a half
of the time on a CPU. That of SGD is not faster."""

LARGEST = 1e30
"""Rates above this are infinite: training diverges with them, and says so, where torch's optimizers may overflow and
raise an error."""


def build_optimizer(groups: Iterable[Mapping[str, Any] | Tensor], config: PretrainConfig) -> Optimizer:
    """The optimizer of ``config``, for the method's parameter groups."""
    return create_optimizer(config.optimizer, groups, rates_at(config, 0).lr, vars(config))


def create_optimizer(
    name: str, groups: Iterable[Mapping[str, Any] | Tensor], lr: float, settings: Mapping[str, Any]
) -> Optimizer:
    """Creates the registered optimizer ``name`` with ``weight_decay`` and those ``settings`` that its entry names.

    For a missing setting, the default of the optimizer's class is used.

    Raises:
        UsageError: for an unknown name.
    """
    used = {keyword: settings[key] for keyword, key in OPTIMIZERS[name].settings.items() if key in settings}
    decay = settings["weight_decay"]
    cls, groups = OPTIMIZERS.load(name), list(groups)
    if cls in FUSED and all(p.device.type in ("cpu", "cuda") for group in groups for p in _parameters(group)):
        used["fused"] = True
    optimizer: Optimizer = cls(groups, lr, weight_decay=_bounded(decay), **used)
    optimizer.register_step_pre_hook(_bound_rates)
    return optimizer


def _parameters(group: Mapping[str, Any] | Tensor) -> list[Tensor]:
    return list(group["params"]) if isinstance(group, Mapping) else [group]


def _bound_rates(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = _bounded(group["lr"]), _bounded(group["weight_decay"])


def _bounded(rate: float) -> float:
    return math.inf if rate > LARGEST else rate


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (arXiv:1708.03888) as in MoCo v3.

    Parameters with fewer than two dimensions (biases and norms) have neither weight decay nor scaling. The update of
    the others is

        d = g + wd * p,   d <- d * trust * |p| / |d|   (unscaled if a norm is 0),   v <- m v + d,   p <- p - lr v

    With ``clip``, the learning rate of a layer is at most ``lr``, as in solo-learn:
    d <- d * min(trust * |p| / (|d| lr), 1).
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = TRUST,
        clip: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "clip": clip}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            updates: dict[Tensor, Tensor] = {p: p.grad for p in params if p.grad is not None}
            matrices = [p for p in params if p.ndim > 1]
            updates |= zip(matrices, self._scaled(matrices, group), strict=True)
            for p in params:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            velocities = [self.state[p]["momentum_buffer"] for p in params]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, list(updates.values()))
            torch._foreach_add_(params, velocities, alpha=-group["lr"])

    @staticmethod
    def _scaled(params: list[Tensor], group: Mapping[str, Any]) -> Sequence[Tensor]:
        """The decayed and scaled gradients of ``params``."""
        if not params:
            return []
        updates = torch._foreach_add(
            [p.grad for p in params if p.grad is not None], params, alpha=group["weight_decay"]
        )
        p_norms, d_norms = (torch.stack(torch._foreach_norm(tensors)) for tensors in (params, updates))
        ratios = group["trust"] * p_norms / d_norms
        if group["clip"]:
            ratios = (ratios / max(group["lr"], TINY)).clamp(max=1.0)
        ratios = torch.where((p_norms > 0) & (d_norms > 0), ratios, 1.0)
        torch._foreach_mul_(updates, ratios.unbind())
        return updates


class LARC(torch.optim.SGD):
    """SGD with gradients scaled per layer: apex's LARC without clipping, as in SimSiam's linear probe.

        g <- (g + wd * p) * trust * |p| / (|g| + wd |p| + 1e-8)

    The gradient is unchanged, without weight decay, if its norm or that of its parameter is 0.
    """

    def __init__(self, params: Any, lr: float, *, momentum: float, weight_decay: float, trust: float = TRUST) -> None:
        super().__init__(params, lr, momentum=momentum)
        self.trust = trust
        self.decay = weight_decay

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        """One update; the gradients are scaled in place."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                p_norm, g_norm = torch.linalg.vector_norm(p), torch.linalg.vector_norm(p.grad)
                scale = self.trust * p_norm / (g_norm + self.decay * p_norm + 1e-8)
                scaled = p.grad.add(p, alpha=self.decay).mul_(scale)
                p.grad.copy_(torch.where((p_norm > 0) & (g_norm > 0), scaled, p.grad))
        return super().step(closure)
