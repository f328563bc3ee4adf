"""Builds optimizers by name, and implements those that torch does not have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.optim.optimizer import Optimizer

from ssltool.config import PretrainConfig
from ssltool.training import OPTIMIZERS
from ssltool.training.schedule import rates_at

TRUST = 0.001
"""Trust coefficient of LARS and LARC in MoCo v3, SimSiam and the collapse paper."""

TINY = 1e-12
"""Lower bound of the learning rate where it is a divisor."""

LARGEST = 1e30
"""Rates above this are infinite: training diverges with them, and says so, where torch's optimizers may overflow and
raise an error."""


def build_optimizer(groups: Iterable[Mapping[str, Any]], config: PretrainConfig) -> Optimizer:
    """The optimizer of ``config``, for the method's parameter groups."""
    return create_optimizer(config.optimizer, groups, rates_at(config, 0).lr, vars(config))


def create_optimizer(
    name: str, groups: Iterable[Mapping[str, Any]], lr: float, settings: Mapping[str, Any]
) -> Optimizer:
    """Creates the registered optimizer ``name`` with ``weight_decay`` and those ``settings`` that its entry names.

    For a missing setting, the default of the optimizer's class is used.

    Raises:
        UsageError: for an unknown name.
    """
    used = {keyword: settings[key] for keyword, key in OPTIMIZERS[name].settings.items() if key in settings}
    decay = settings["weight_decay"]
    optimizer: Optimizer = OPTIMIZERS.load(name)(groups, lr, weight_decay=_bounded(decay), **used)
    optimizer.register_step_pre_hook(_bound_rates)
    return optimizer


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
            for p in group["params"]:
                if p.grad is None:
                    continue
                d = p.grad
                if p.ndim > 1:
                    d = d.add(p, alpha=group["weight_decay"])
                    p_norm, d_norm = torch.linalg.vector_norm(p), torch.linalg.vector_norm(d)
                    ratio = group["trust"] * p_norm / d_norm
                    if group["clip"]:
                        ratio = (ratio / max(group["lr"], TINY)).clamp(max=1.0)
                    d = d * torch.where((p_norm > 0) & (d_norm > 0), ratio, 1.0)
                velocity = self.state[p].get("momentum_buffer")
                if velocity is None:
                    velocity = self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                velocity.mul_(group["momentum"]).add_(d)
                p.add_(velocity, alpha=-group["lr"])


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
