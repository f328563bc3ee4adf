"""Building optimizers by name, and those that torch lacks."""

from __future__ import annotations

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
"""Learning rates below this are as good as 0."""


def build_optimizer(groups: Iterable[dict[str, Any]], config: PretrainConfig) -> Optimizer:
    """The optimizer that the configuration names, over the method's parameter groups."""
    return create_optimizer(config.optimizer, groups, rates_at(config, 0).lr, vars(config))


def create_optimizer(name: str, groups: Iterable[dict[str, Any]], lr: float, settings: Mapping[str, Any]) -> Optimizer:
    """An optimizer of the registry, with its share of ``settings``: ``weight_decay``, and what its entry names.

    A setting that is missing stays at the optimizer's own default.

    Raises:
        UsageError: for an unknown name.
    """
    used = {keyword: settings[one] for keyword, one in OPTIMIZERS[name].settings.items() if one in settings}
    optimizer: Optimizer = OPTIMIZERS.load(name)(groups, lr, weight_decay=settings["weight_decay"], **used)
    return optimizer


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (arXiv:1708.03888) with MoCo v3's choices: biases and norms, that is
    parameters with fewer than two dimensions, get neither weight decay nor scaling; elsewhere

        d = g + wd * p,   d <- d * trust * |p| / |d|   (unscaled where a norm is 0),   v <- m v + d,   p <- p - lr v

    With ``clip`` a layer's rate is at most ``lr``, as in solo-learn: d <- d * min(trust * |p| / (|d| lr), 1).
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
    """SGD on gradients scaled layer by layer, as apex's LARC without clipping, which SimSiam's linear probe uses:

        g <- (g + wd * p) * trust * |p| / (|g| + wd |p| + 1e-8)

    A gradient is left as it is, without weight decay, where its own norm or its parameter's is 0.
    """

    def __init__(self, params: Any, lr: float, *, momentum: float, weight_decay: float, trust: float = TRUST) -> None:
        super().__init__(params, lr, momentum=momentum)
        self.trust = trust
        self.decay = weight_decay

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        """One update; the gradients are overwritten by their scaled versions."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                p_norm, g_norm = torch.linalg.vector_norm(p), torch.linalg.vector_norm(p.grad)
                scale = self.trust * p_norm / (g_norm + self.decay * p_norm + 1e-8)
                scaled = p.grad.add(p, alpha=self.decay).mul_(scale)
                p.grad.copy_(torch.where((p_norm > 0) & (g_norm > 0), scaled, p.grad))
        return super().step(closure)
